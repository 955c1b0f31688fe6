/** Guests with disks to be measured: Debian, booted from our NVMe, idle until it is asked. */
import { readFileSync } from 'node:fs';
import { tellFaults } from '../src/cli/fault-lines.ts';
import { doorbellsFor } from '../src/devices/nvme/doorbells.ts';
import { Nvme, type NvmeOptions } from '../src/devices/nvme/nvme.ts';
import { Machine } from '../src/machine/machine.ts';
import { formatRequesterId, parseRequesterId, type RequesterId } from '../src/pci/requester-id.ts';
import type { Parts } from '../src/setup/parts.ts';
import { openStorage } from '../src/storage/open-storage.ts';
import { debianImageForTests } from '../src/testkit/debian-image.ts';
import type { GuestDevice } from '../src/vm/qemu-command.ts';
import type { VirtualMachine } from '../src/vm/virtual-machine.ts';

const GUEST_BYTES = 768 * 2 ** 20;
const ROOT = parseRequesterId('00:02.0');
/** Where the disks that are measured come, one after another. */
const FIRST_DISK = parseRequesterId('00:04.0');
const NEXT_DEVICE = 8;
const SETTLE_TIMEOUT_MS = 120_000;

/** What a disk is served by. */
export type DiskSource =
  | {
      readonly by: 'sealbus';
      readonly file: string;
      readonly options?: Pick<NvmeOptions, 'doorbells' | 'coalescing' | 'pollMicroseconds'>;
    }
  | { readonly by: 'qemu'; readonly file: string }
  /** Somebody else's vfio-user server that listens. */
  | { readonly by: 'socket'; readonly socket: string };

export interface NvmeGuestOptions {
  readonly parts: Parts;
  readonly memory: 'plain' | 'sealed';
  readonly iommu: 'identity' | 'virtio';
  readonly cpus: number;
  /** Of guest memory; 768 MiB unless told. */
  readonly bytes?: number;
  readonly disks: readonly DiskSource[];
  /** Of the guest's root disk. */
  readonly directory: string;
  readonly say: (words: string) => void;
  readonly signal: AbortSignal;
}

export interface NvmeGuest extends AsyncDisposable {
  readonly vm: VirtualMachine;
  readonly machine: Machine;
  /** In /dev, in the order in which they were asked for. */
  readonly disks: readonly string[];
}

/** @throws FuseUnavailable, VmError, SetupError; Error where a disk does not appear in the guest */
export async function bootNvmeGuest(options: NvmeGuestOptions): Promise<NvmeGuest> {
  const { parts, memory, iommu, cpus, directory, say, signal, bytes = GUEST_BYTES } = options;
  await using stack = new AsyncDisposableStack();
  const image = stack.use(await debianImageForTests({ directory, signal }));
  const open = async (file: string) => {
    const storage = await openStorage(file, { readOnly: false, log: () => {} });
    stack.defer(() => storage.close());
    return { namespaces: [{ storage }] };
  };
  const root = await open(image.file);
  const ours = new Map<DiskSource, { readonly namespaces: NvmeOptions['namespaces'] }>();
  for (const disk of options.disks) {
    if (disk.by === 'sealbus') ours.set(disk, await open(disk.file));
  }
  // What comes last is gone first: the machine before its disks.
  const machine = stack.use(await Machine.create({ parts, memory, iommu, bytes, log: say }));
  tellFaults(machine.iommu.faults, say);
  // As `sealbus run --disk` plugs them.
  const doorbells = doorbellsFor(memory);
  machine.plug(new Nvme({ ...root, doorbells, serial: 'ROOT' }), ROOT);
  const devices: GuestDevice[] = [];
  const places = options.disks.map((_, index) => (FIRST_DISK + index * NEXT_DEVICE) as RequesterId);
  for (const [index, disk] of options.disks.entries()) {
    const address = places[index] as RequesterId;
    const serial = `BENCH${index}`;
    const own = ours.get(disk);
    if (disk.by === 'sealbus' && own !== undefined) {
      machine.plug(new Nvme({ ...own, doorbells, ...disk.options, serial }), address);
    } else if (disk.by === 'qemu') {
      const drive = { file: disk.file };
      devices.push({ kind: 'builtin', address, driver: 'nvme', drive, properties: { serial } });
    } else if (disk.by === 'socket') {
      devices.push({ kind: 'vfio-user', address, socket: disk.socket });
    }
  }
  const vm = await machine.boot({ cpus, devices, signal, disk: { from: ROOT, agent: true } });
  await untilAborted(signal, settle(vm));
  say(
    `a guest with ${memory} RAM is up, ${Math.round(vm.bootSeconds)} s to its agent's first word`,
  );
  const disks = [];
  for (const place of places) disks.push(await untilAborted(signal, diskAt(vm, place)));
  const all = stack.move();
  return { vm, machine, disks, [Symbol.asyncDispose]: () => all.disposeAsync() };
}

/** Until the system is up; then without what it would do by itself meanwhile. */
async function settle(vm: VirtualMachine): Promise<void> {
  const words = "systemctl is-system-running --wait; systemctl stop '*.timer'";
  await vm.check(['sh', '-c', words], { timeoutMs: SETTLE_TIMEOUT_MS });
}

/** The namespace of a controller, by the controller's place: names change from boot to boot. */
async function diskAt(vm: VirtualMachine, rid: RequesterId): Promise<string> {
  const bdf = formatRequesterId(rid);
  const words = `cd /sys/bus/pci/devices/${bdf}/nvme && ls -d nvme*/nvme*n1`;
  const text = (await vm.check(['sh', '-c', words])).trim();
  const name = /^nvme\d+\/(nvme\d+n1)$/.exec(text)?.[1];
  if (name === undefined) {
    throw new Error(`expected one NVMe disk at ${bdf} in the guest, got ${JSON.stringify(text)}`);
  }
  return `/dev/${name}`;
}

/** CPU time that a process has had, all threads, in s (proc_pid_stat(5): utime and stime). */
export function cpuSeconds(pid: number): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  // USER_HZ is 100 on every architecture that matters here.
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Ends as soon as it is aborted; what was waited for ends with its guest. @throws the signal's reason */
export async function untilAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  signal.throwIfAborted();
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
