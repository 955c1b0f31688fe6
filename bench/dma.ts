/**
 * DmaPort reads and writes: in plain memory beside a bare copy, in sealed memory beside plain, with
 * the pages dirty in the CPU's cache, clean in it, and not in it; the controller on the device's core
 * and on another; and batches of accesses (dma-batches.ts). `node bench/main.ts --only dma`.
 */
import { ftruncateSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  close,
  MAP_POPULATE,
  MAP_SHARED,
  memfdCreate,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
} from '../src/ffi/libc.ts';
import { IdentityDomain } from '../src/iommu/domain.ts';
import { Iommu } from '../src/iommu/iommu.ts';
import { keySlot } from '../src/keys/key-slot.ts';
import { vmId } from '../src/keys/vm-id.ts';
import { plainRegions } from '../src/machine/guest-ram.ts';
import { SlotRegister } from '../src/machine/slot-register.ts';
import { type GuestMemory, gpa } from '../src/memory/guest-memory.ts';
import { MemoryController } from '../src/memory/memory-controller.ts';
import { PlainMemory } from '../src/memory/plain-memory.ts';
import { RamRegions } from '../src/memory/ram-regions.ts';
import { SealedRam } from '../src/memory/sealed-ram.ts';
import type { DmaPort } from '../src/pci/dma-port.ts';
import { requesterId } from '../src/pci/requester-id.ts';
import { DmaRegions } from '../src/vfio-user/dma-regions.ts';
import type { BenchContext } from './bench-context.ts';
import { type CacheState, CpuCache } from './cpu-cache.ts';
import { type Batch, measureBatches } from './dma-batches.ts';
import { type Comparison, compare, interleaved, median, quantile, rounded } from './figures.ts';
import { allowedCores, coresOf, type Placement, pin } from './placement.ts';

const SIZES = [512, 4096, 65_536, 1_048_576] as const;
const STATES: readonly CacheState[] = ['dirty', 'clean', 'absent'];
const DIRECTIONS = ['read', 'write'] as const;
const RAM_BYTES = 16 * 2 ** 20;
const PAGE_BYTES = 4096;
const ROUNDS = 21;
/** What one round of calls in a row moves; and how many calls at most. */
const ROUND_BYTES = 8 * 2 ** 20;
const ROUND_CALLS_MAX = 4000;
/** Each loop runs that long before it counts: V8's last tier takes some 100,000 calls. */
const WARM_UP_MS = 150;
/** Single accesses timed, by size. */
const SAMPLES: Readonly<Record<number, number>> = {
  512: 400,
  4096: 400,
  65536: 200,
  1048576: 60,
};
const COPY = 'a bare copy of as many bytes between two Uint8Arrays';
const PLAIN = 'the same access in plain memory';

export type Direction = (typeof DIRECTIONS)[number];

/** One access after another at the same place, as fast as they go: medians of rounds. */
export interface InARow extends Comparison {
  readonly direction: Direction;
  readonly bytes: number;
  readonly access_ns: number;
  readonly copy_ns: number;
}

/** Single accesses, each after a turn of the event loop and at another place. */
export interface Single {
  /** Where the controller is: on the device's core, or on another. Plain memory has none. */
  readonly placement: Placement;
  readonly direction: Direction;
  readonly bytes: number;
  readonly samples: number;
  readonly p50_us: number;
  readonly p99_us: number;
}

export interface SealedSingle extends Single, Comparison {
  /** The pages in the CPU's cache when the DMA comes. */
  readonly pages: CacheState;
}

/** The ratio on top is that of the bar: a 4 KiB read in plain memory beside the bare copy. */
export interface DmaResult extends Comparison {
  readonly access_ns: number;
  readonly copy_ns: number;
  /** The IOMMU alone: a 4 KiB read from a memory whose read does nothing. */
  readonly lookUp: Comparison & { readonly lookUp_ns: number; readonly copy_ns: number };
  readonly plain: readonly InARow[];
  readonly plainSingle: readonly Single[];
  readonly sealed: readonly SealedSingle[];
  readonly batches: readonly Batch[];
  /** What the controller did in `sealed` and `batches`, all of it. */
  readonly retries: number;
}

/** @throws FuseUnavailable; Error where a read does not see what the CPU stored. */
export async function benchDma({ say, signal }: BenchContext): Promise<DmaResult> {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-bench-'));
  try {
    using plain = openPlain();
    say('in plain memory, beside a bare copy');
    const inARow = await measureInARow(plain.port);
    const lookUp = await measureLookUp();
    await using sealed = await openSealed(directory);
    say('in sealed memory, beside plain');
    const single = await measurePlacements(sealed, plain.port, (words) => {
      signal.throwIfAborted();
      say(words);
    });
    const barred = inARow.find((one) => one.direction === 'read' && one.bytes === 4096)!;
    const { direction: _direction, bytes: _bytes, ...onTop } = barred;
    return {
      ...onTop,
      lookUp,
      plain: inARow,
      ...single,
      retries: (await sealed.ram.counters()).dmaRetries,
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const VM = vmId(1);
const SLOT = keySlot(1);

/** A port as Machine makes it: identity domain, all rights, the VM's slot. */
function portOn(memory: GuestMemory): DmaPort {
  const slots = new SlotRegister();
  slots.enter({ slot: SLOT, state: 'active', vm: VM, generation: 1, keyBits: 256 });
  const iommu = new Iommu(slots);
  const rid = requesterId({ bus: 0, device: 4, function: 0 });
  const port = iommu.port(rid, memory);
  port.busMaster = true;
  const domain = new IdentityDomain(iommu.newDomainId());
  iommu.table.set(rid, { domain, vm: VM, slot: SLOT, rights: 'read-write' });
  return port;
}

/** A memfd behind the regions of the vfio-user server, as QEMU's RAM is. */
function openPlain(): Disposable & { readonly port: DmaPort } {
  const fd = memfdCreate('sealbus-bench-ram');
  ftruncateSync(fd, RAM_BYTES);
  // Populated: a guest that has run for a while has its pages.
  const address = mmap(0, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  close(fd);
  const memory = new PlainMemory();
  const regions = new DmaRegions(plainRegions(memory));
  // QEMU seals its memfd, so that the server need not fear a file that shrinks.
  const file = { device: 0n, inode: 0n, offset: 0, fixedSize: true };
  const info = { iova: 0, size: RAM_BYTES, address, readable: true, writable: true };
  regions.requested({ gpa: 0, size: RAM_BYTES, file });
  regions.mapped(info);
  const port = portOn(memory);
  return {
    port,
    [Symbol.dispose]() {
      regions.unmapping(info);
      munmap(address, RAM_BYTES);
    },
  };
}

interface Sealed extends AsyncDisposable {
  readonly port: DmaPort;
  readonly ram: SealedRam;
  readonly cpu: CpuCache;
  readonly controllerPid: number;
}

async function openSealed(directory: string): Promise<Sealed> {
  await using stack = new AsyncDisposableStack();
  const controller = await MemoryController.start({ directory: join(directory, 'ram') });
  stack.defer(() => controller.stop());
  await controller.generateKey(SLOT, VM);
  const options = { name: 'bench', vm: VM, slot: SLOT, bytes: RAM_BYTES };
  const ram = await SealedRam.create(controller, options);
  stack.defer(() => ram.close());
  const memory = ram.memory();
  const whole = { gpa: gpa(0), size: RAM_BYTES, backing: 0 };
  memory.regions.add({ ...whole, readable: true, writable: true });
  const cpu = stack.use(new CpuCache(directory, ram.path, RAM_BYTES));
  // A page that was never written would be read without any decryption.
  await cpu.put('dirty', 0, RAM_BYTES, 1);
  await cpu.put('absent', 0, RAM_BYTES);
  const kept = stack.move();
  return {
    ...{ port: portOn(memory), ram, cpu, controllerPid: controller.pid },
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

function callsARound(bytes: number): number {
  return Math.min(ROUND_CALLS_MAX, Math.ceil(ROUND_BYTES / bytes));
}

/**
 * Where the allocator puts two arrays decides half of what a copy between them takes: loads that
 * follow stores to the same address modulo 4096 wait for them. These are half a page apart.
 */
function twoArrays(bytes: number): [from: Uint8Array, into: Uint8Array] {
  const buffer = new ArrayBuffer(2 * bytes + 2 * PAGE_BYTES);
  const gap = PAGE_BYTES + PAGE_BYTES / 2 - (bytes % PAGE_BYTES);
  return [new Uint8Array(buffer, 0, bytes), new Uint8Array(buffer, bytes + gap, bytes)];
}

/** Each loop is its own function, so that none is compiled for the others' sake. */
async function measureInARow(port: DmaPort): Promise<InARow[]> {
  const results: InARow[] = [];
  for (const bytes of SIZES) {
    const times = callsARound(bytes);
    const [from, into] = twoArrays(bytes);
    const runs = await rounds(times, {
      copy: () => {
        for (let i = 0; i < times; i++) into.set(from);
      },
      read: () => {
        for (let i = 0; i < times; i++) port.readInto(0x10_0000, into);
      },
      write: () => {
        for (let i = 0; i < times; i++) port.writeFrom(0x10_0000, from);
      },
    });
    const copy_ns = median(runs.copy);
    for (const direction of DIRECTIONS) {
      const access_ns = median(runs[direction]);
      const bar = direction === 'read' && bytes === 4096 ? { bar: { atMost: 4 } } : {};
      results.push({
        ...{ direction, bytes },
        ...compare(access_ns, copy_ns, { peer: COPY, ...bar, rounds: ROUNDS }),
        access_ns: rounded(access_ns),
        copy_ns: rounded(copy_ns),
      });
    }
  }
  return results;
}

async function measureLookUp(): Promise<DmaResult['lookUp']> {
  const regions = new RamRegions<number>();
  const whole = { gpa: gpa(0), size: RAM_BYTES, backing: 0 };
  regions.add({ ...whole, readable: true, writable: true });
  const port = portOn({
    mode: 'plain',
    crosses: () => false,
    permits: (direction, address, length) => regions.permits(direction, address, length),
    read: () => {},
    write: () => {},
    readBatch: () => {},
    writeBatch: () => {},
  });
  const times = callsARound(4096);
  const [from, into] = twoArrays(4096);
  const runs = await rounds(times, {
    copy: () => {
      for (let i = 0; i < times; i++) into.set(from);
    },
    lookUp: () => {
      for (let i = 0; i < times; i++) port.readInto(0x10_0000, into);
    },
  });
  const lookUp_ns = median(runs.lookUp);
  const copy_ns = median(runs.copy);
  const peer = 'a bare copy of 4 KiB between two Uint8Arrays';
  return {
    ...compare(lookUp_ns, copy_ns, { peer, bar: { atMost: 1 }, rounds: ROUNDS }),
    lookUp_ns: rounded(lookUp_ns),
    copy_ns: rounded(copy_ns),
  };
}

/** Nanoseconds of one call in each of the loops, which make `times` calls, round by round. */
async function rounds<Names extends string>(
  times: number,
  loops: Readonly<Record<Names, () => void>>,
): Promise<Record<Names, number[]>> {
  const timed = (loop: () => void) => () => {
    const begin = process.hrtime.bigint();
    loop();
    return Number(process.hrtime.bigint() - begin) / times;
  };
  const entries = Object.entries(loops) as [Names, () => void][];
  for (const [, loop] of entries) {
    const end = performance.now() + WARM_UP_MS;
    while (performance.now() < end) loop();
  }
  const runs = entries.map(([name, loop]) => [name, timed(loop)] as const);
  return await interleaved(ROUNDS, Object.fromEntries(runs) as Record<Names, () => number>);
}

/** The device on one core, the CPU on another (if there is one), the controller on each of them. */
async function measurePlacements(
  sealed: Sealed,
  plainPort: DmaPort,
  say: (words: string) => void,
): Promise<Pick<DmaResult, 'plainSingle' | 'sealed' | 'batches'>> {
  const allowed = allowedCores();
  const [device = 0, other] = coresOf(allowed);
  const results: Pick<DmaResult, 'plainSingle' | 'sealed' | 'batches'>[] = [];
  const measure = async (placement: Placement) => {
    const single = await measureSingle(sealed, plainPort, placement, say);
    say(`${placement}: batches`);
    const batches = await measureBatches({ ...sealed, ramBytes: RAM_BYTES }, placement);
    results.push({ ...single, batches });
  };
  try {
    pin(process.pid, `${device}`);
    pin(sealed.cpu.pid, `${other ?? device}`);
    if (other !== undefined) {
      pin(sealed.controllerPid, `${other}`);
      await measure('twoCores');
    }
    pin(sealed.controllerPid, `${device}`);
    await measure('oneCore');
  } finally {
    pin(process.pid, allowed);
  }
  return {
    plainSingle: results.flatMap((result) => result.plainSingle),
    sealed: results.flatMap((result) => result.sealed),
    batches: results.flatMap((result) => result.batches),
  };
}

async function measureSingle(
  { port, cpu }: Sealed,
  plainPort: DmaPort,
  placement: Placement,
  say: (words: string) => void,
): Promise<Pick<DmaResult, 'plainSingle' | 'sealed'>> {
  const plainSingle: Single[] = [];
  const sealed: SealedSingle[] = [];
  for (const bytes of SIZES) {
    const samples = SAMPLES[bytes] ?? 0;
    say(`${placement}: ${bytes} bytes, ${samples} accesses of each kind`);
    const bytesIn = new Uint8Array(bytes);
    const pages = Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
    let turn = 0;
    const next = () => (turn++ * pages) % RAM_BYTES;
    const access = (through: DmaPort, direction: Direction, offset: number): number => {
      const begin = process.hrtime.bigint();
      if (direction === 'read') through.readInto(offset, bytesIn);
      else through.writeFrom(offset, bytesIn);
      return Number(process.hrtime.bigint() - begin);
    };
    const sample = async (direction: Direction, state: CacheState) => {
      const offset = next();
      const value = turn & 0xff;
      // Dirty first in any case, so that each state has the same past.
      await cpu.put('dirty', offset, pages, value);
      if (state !== 'dirty') await cpu.put(state, offset, pages);
      const time = access(port, direction, offset);
      if (direction === 'read' && bytesIn[0] !== value) {
        throw new Error(`expected the DMA to read ${value}, which was stored, got ${bytesIn[0]}`);
      }
      return time;
    };
    const plainSample = async (direction: Direction) => {
      const offset = next();
      await cpu.put('dirty', offset, pages, turn & 0xff); // as much else between two accesses
      return access(plainPort, direction, offset);
    };
    const runs: Record<string, () => Promise<number>> = {};
    for (const direction of DIRECTIONS) {
      runs[`${direction} plain`] = () => plainSample(direction);
      for (const state of STATES) runs[`${direction} ${state}`] = () => sample(direction, state);
    }
    const times = await interleaved(samples, runs);
    for (const direction of DIRECTIONS) {
      const kind = { placement, direction, bytes };
      const plain = summary(kind, times[`${direction} plain`] ?? []);
      plainSingle.push(plain);
      for (const state of STATES) {
        const one = summary(kind, times[`${direction} ${state}`] ?? []);
        const ratio = compare(one.p50_us, plain.p50_us, { peer: PLAIN, rounds: samples });
        sealed.push({ ...one, pages: state, ...ratio });
      }
    }
  }
  return { plainSingle, sealed };
}

function summary(
  kind: Pick<Single, 'placement' | 'direction' | 'bytes'>,
  times: readonly number[],
): Single {
  const us = (share: number) => rounded(quantile(times, share) / 1000);
  return { ...kind, samples: times.length, p50_us: us(0.5), p99_us: us(0.99) };
}
