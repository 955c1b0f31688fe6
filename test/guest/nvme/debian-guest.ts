/** A Debian that boots from our NVMe, in sealed memory behind the virtio-iommu, with disks to work on. */
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type NamespaceOptions, Nvme } from '../../../src/devices/nvme/nvme.ts';
import { Machine } from '../../../src/machine/machine.ts';
import type { PciEndpoint } from '../../../src/pci/endpoint.ts';
import {
  formatRequesterId,
  parseRequesterId,
  type RequesterId,
} from '../../../src/pci/requester-id.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { openStorage } from '../../../src/storage/open-storage.ts';
import { debianImageForTests } from '../../../src/testkit/debian-image.ts';
import type { ExecOptions, ExecResult, VirtualMachine } from '../../../src/vm/virtual-machine.ts';
import { changeBootArguments } from '../root-file-system.ts';

/** A boot takes under a minute on a quiet host with two cores, and several times that on a busy one. */
export const bootTimeoutMs = 600_000;
const commandTimeoutMs = 240_000;
const powerOffTimeoutMs = 240_000;

export interface ScratchDisk {
  readonly bytes: number;
  readonly readOnly?: boolean;
  /** What it begins with; holes where not given. */
  readonly content?: Uint8Array;
}

export interface DebianGuestOptions {
  /** Namespaces from 2 on of the controller that it boots from. */
  readonly disks?: readonly ScratchDisk[];
  /** Namespaces from 1 on of a second controller, which the guest can lose and live. */
  readonly others?: readonly ScratchDisk[];
  /** More that is plugged in, by its address. What it works with is the caller's to close, after the guest. */
  readonly more?: readonly (readonly [address: string, endpoint: PciEndpoint])[];
  /** For the kernel, before the image is booted. */
  readonly kernelArguments?: string;
}

/** Namespace 1 of the first controller is the disk that it boots from. */
export class DebianGuest implements AsyncDisposable {
  static readonly first = parseRequesterId('00:02.0');
  static readonly second = parseRequesterId('00:04.0');
  /** The disk that it boots from. */
  readonly image: string;
  readonly machine: Machine;
  readonly vm: VirtualMachine;
  /** Of the scratch disks, in their order. */
  readonly files: readonly string[];
  readonly otherFiles: readonly string[];
  readonly #ends: AsyncDisposableStack;

  private constructor(
    parts: Pick<DebianGuest, 'image' | 'machine' | 'vm' | 'files' | 'otherFiles'>,
    ends: AsyncDisposableStack,
  ) {
    this.image = parts.image;
    this.machine = parts.machine;
    this.vm = parts.vm;
    this.files = parts.files;
    this.otherFiles = parts.otherFiles;
    this.#ends = ends;
  }

  static async boot(options: DebianGuestOptions): Promise<DebianGuest> {
    const { disks = [], others = [], more = [], kernelArguments } = options;
    await using ends = new AsyncDisposableStack();
    const image = ends.use(await debianImageForTests());
    if (kernelArguments !== undefined) changeBootArguments(image.file, kernelArguments);
    const place = ends.adopt(mkdtempSync(join(tmpdir(), 'sealbus-nvme-')), (path) =>
      rmSync(path, { recursive: true, force: true }),
    );
    const make = (disk: ScratchDisk, name: string) => makeDisk(join(place, name), disk);
    const files = disks.map((disk, index) => make(disk, `first-${index}.img`));
    const otherFiles = others.map((disk, index) => make(disk, `second-${index}.img`));
    const open = async (path: string, readOnly = false): Promise<NamespaceOptions> => ({
      storage: ends.adopt(await openStorage(path, { readOnly, log: () => {} }), (storage) =>
        storage.close(),
      ),
    });
    const namespaces = [await open(image.file)];
    for (const [n, path] of files.entries()) namespaces.push(await open(path, disks[n]?.readOnly));
    const otherNamespaces: NamespaceOptions[] = [];
    for (const [n, path] of otherFiles.entries()) {
      otherNamespaces.push(await open(path, others[n]?.readOnly));
    }
    const parts = await ensureParts();
    const machine = ends.use(
      await Machine.create({ parts, memory: 'sealed', bytes: 2 ** 30, iommu: 'virtio' }),
    );
    machine.plug(new Nvme({ namespaces }), DebianGuest.first);
    if (otherNamespaces.length > 0) {
      const second = new Nvme({ namespaces: otherNamespaces, serial: 'SEALBUS0002' });
      machine.plug(second, DebianGuest.second);
    }
    for (const [address, endpoint] of more) machine.plug(endpoint, parseRequesterId(address));
    const disk = { from: DebianGuest.first, agent: true };
    const vm = await machine.boot({ disk, bootTimeoutMs });
    return new DebianGuest({ image: image.file, machine, vm, files, otherFiles }, ends.move());
  }

  /** A script of bash's that must succeed; it stops at the first failure. */
  sh(script: string, options: ExecOptions = {}): Promise<string> {
    return this.vm.check(shell(script), { timeoutMs: commandTimeoutMs, ...options });
  }

  /** As {@link sh}, whatever comes of it. */
  try(script: string, options: ExecOptions = {}): Promise<ExecResult> {
    return this.vm.exec(shell(script), { timeoutMs: commandTimeoutMs, ...options });
  }

  /** Path of the controller's character device now. */
  async controller(at: RequesterId = DebianGuest.first): Promise<string> {
    return `/dev/${(await this.sh(`ls /sys/bus/pci/devices/${formatRequesterId(at)}/nvme`)).trim()}`;
  }

  /** Path of a namespace's block device now: names may swap at each boot and each bind. */
  async disk(nsid: number, at: RequesterId = DebianGuest.first): Promise<string> {
    const script = `
      for i in $(seq 300); do
        for at in /sys/bus/pci/devices/${formatRequesterId(at)}/nvme/nvme*/nvme*n*; do
          if [ "$(cat $at/nsid)" = ${nsid} ]; then basename $at; exit; fi
        done
        sleep 0.1
      done
      exit 1`;
    return `/dev/${(await this.sh(script)).trim()}`;
  }

  /** What its kernel has said of commands, disks, file systems and DMA that failed; empty where none did. */
  kernelErrors(): Promise<string> {
    const wrong = 'nvme.*(timeout|abort|is down|fail)|I/O error, dev|EXT4-fs error|fault from EP';
    return this.sh(`dmesg | grep -E '${wrong}' || true`);
  }

  /** @returns whether it went by itself */
  powerOff(): Promise<boolean> {
    return this.vm.powerOff(powerOffTimeoutMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ends[Symbol.asyncDispose]();
  }
}

/** Bytes of a file, which may be longer than an array. */
export function bytesOf(path: string, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const fd = openSync(path, 'r');
  try {
    const read = readSync(fd, bytes, 0, length, offset);
    if (read !== length) throw new Error(`expected ${length} bytes at ${offset}, got ${read}`);
    return bytes;
  } finally {
    closeSync(fd);
  }
}

function shell(script: string): string[] {
  return ['bash', '-ec', script];
}

function makeDisk(path: string, { bytes, content }: ScratchDisk): string {
  const fd = openSync(path, 'wx');
  try {
    ftruncateSync(fd, bytes);
    if (content !== undefined) writeFileSync(fd, content);
    return path;
  } finally {
    closeSync(fd);
  }
}
