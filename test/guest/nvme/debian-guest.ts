/** A Debian that boots from our NVMe, in sealed memory behind the virtio-iommu, with disks to work on. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type NamespaceOptions, Nvme } from '../../../src/devices/nvme/nvme.ts';
import { Machine } from '../../../src/machine/machine.ts';
import { formatRequesterId, parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import type { BlockStorage } from '../../../src/storage/block-storage.ts';
import { openStorage } from '../../../src/storage/open-storage.ts';
import type { ExecOptions, ExecResult, VirtualMachine } from '../../../src/vm/virtual-machine.ts';
import { debianImageForTests } from '../debian-image.ts';

/** A boot takes twenty seconds on a quiet host with two cores, and several times that on a busy one. */
export const bootTimeoutMs = 600_000;
const commandTimeoutMs = 240_000;
const powerOffTimeoutMs = 240_000;

export interface ScratchDisk {
  readonly bytes: number;
  readonly readOnly?: boolean;
  readonly blockBytes?: 512 | 4096;
  /** What it begins with; holes where not given. */
  readonly content?: Uint8Array;
}

/** Namespace 1 is the disk that it boots from; the scratch disks are those from 2 on. */
export class DebianGuest implements AsyncDisposable {
  static readonly address = parseRequesterId('00:02.0');
  readonly image: string;
  readonly machine: Machine;
  readonly vm: VirtualMachine;
  /** Files of the scratch disks: that of namespace 2 is the first. */
  readonly files: readonly string[];
  /** Of the function's name in sysfs. */
  readonly pciName = formatRequesterId(DebianGuest.address);
  readonly #ends: AsyncDisposableStack;

  private constructor(
    parts: Pick<DebianGuest, 'image' | 'machine' | 'vm' | 'files'>,
    ends: AsyncDisposableStack,
  ) {
    this.image = parts.image;
    this.machine = parts.machine;
    this.vm = parts.vm;
    this.files = parts.files;
    this.#ends = ends;
  }

  static async boot(disks: readonly ScratchDisk[]): Promise<DebianGuest> {
    await using ends = new AsyncDisposableStack();
    const image = ends.use(await debianImageForTests());
    const place = ends.adopt(mkdtempSync(join(tmpdir(), 'sealbus-nvme-')), (path) =>
      rmSync(path, { recursive: true, force: true }),
    );
    const files = disks.map((disk, index) => makeDisk(join(place, `${index + 2}.img`), disk));
    const open = async (path: string, readOnly: boolean): Promise<BlockStorage> =>
      ends.adopt(await openStorage(path, { readOnly, log: () => {} }), (storage) =>
        storage.close(),
      );
    const namespaces: NamespaceOptions[] = [{ storage: await open(image.file, false) }];
    for (const [index, { readOnly = false, blockBytes = 512 }] of disks.entries()) {
      const storage = await open(files[index] as string, readOnly);
      namespaces.push({ storage, blockBytes });
    }
    const parts = await ensureParts();
    const machine = ends.use(
      await Machine.create({ parts, memory: 'sealed', bytes: 2 ** 30, iommu: 'virtio' }),
    );
    machine.plug(new Nvme({ namespaces }), DebianGuest.address);
    const vm = await machine.boot({
      disk: { from: DebianGuest.address, agent: true },
      bootTimeoutMs,
    });
    return new DebianGuest({ image: image.file, machine, vm, files }, ends.move());
  }

  /** A script of bash's, which stops at the first failure. */
  sh(script: string, options: ExecOptions = {}): Promise<string> {
    return this.vm.check(shell(script), { timeoutMs: commandTimeoutMs, ...options });
  }

  /** As {@link sh}, whatever comes of it. */
  try(script: string, options: ExecOptions = {}): Promise<ExecResult> {
    return this.vm.exec(shell(script), { timeoutMs: commandTimeoutMs, ...options });
  }

  /** Path of a namespace's block device now: names may swap. */
  async disk(nsid: number): Promise<string> {
    const name = await this.sh(
      `for at in /sys/block/nvme*; do [ "$(cat $at/nsid)" = ${nsid} ] && basename $at; done; true`,
    );
    return `/dev/${name.trim()}`;
  }

  /** Path of the controller's character device now. */
  async controller(): Promise<string> {
    return `/dev/${(await this.sh(`ls /sys/bus/pci/devices/${this.pciName}/nvme`)).trim()}`;
  }

  /** @returns whether it went by itself */
  powerOff(): Promise<boolean> {
    return this.vm.powerOff(powerOffTimeoutMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ends[Symbol.asyncDispose]();
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
  } finally {
    closeSync(fd);
  }
  return path;
}
