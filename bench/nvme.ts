/**
 * fio in a guest on NVMe disks in memory: QEMU's built-in controller, and ours in plain RAM, in sealed
 * RAM, and in sealed RAM behind a virtio-iommu. How a VM holds its memory is the VM's, so there are three
 * guests side by side; each rests while another one is measured. `npm run bench -- nvme`.
 */
import { copyFileSync, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BenchContext } from './bench-context.ts';
import { type Bar, type Comparison, compare, interleaved, median, rounded } from './figures.ts';
import { FIO_ENGINE, type FioFigure, type FioTimes, runFio, type Workload } from './fio.ts';
import {
  bootNvmeGuest,
  cpuSeconds,
  type DiskSource,
  type NvmeGuest,
  type NvmeGuestOptions,
  untilAborted,
} from './nvme-guest.ts';
import { fillRandomly } from './random-file.ts';
import { SPDK_PROGRAMS, type SpdkTarget, spdkProgram, startSpdk } from './spdk-target.ts';

const WORKLOADS = {
  randomRead1: { pattern: 'randread', block_bytes: 4096, depth: 1 },
  randomRead32: { pattern: 'randread', block_bytes: 4096, depth: 32 },
  randomWrite1: { pattern: 'randwrite', block_bytes: 4096, depth: 1 },
  randomWrite32: { pattern: 'randwrite', block_bytes: 4096, depth: 32 },
  sequentialRead: { pattern: 'read', block_bytes: 131_072, depth: 8 },
  sequentialWrite: { pattern: 'write', block_bytes: 131_072, depth: 8 },
} as const satisfies Readonly<Record<string, Workload>>;

export type WorkloadName = keyof typeof WORKLOADS;
const WORKLOAD_NAMES = Object.keys(WORKLOADS) as WorkloadName[];

const DISKS = {
  qemu: "QEMU's built-in nvme",
  plain: 'ours in plain RAM',
  sealed: 'ours in sealed RAM',
  sealedIommu: 'ours in sealed RAM behind virtio-iommu',
  spdk: 'an SPDK target over vfio-user',
} as const;

export type DiskName = keyof typeof DISKS;

/** What must hold: at least so much of the peer's IOPS. */
const BARS: readonly {
  readonly disk: DiskName;
  readonly peer: DiskName;
  readonly workloads: readonly WorkloadName[];
  readonly bar: Bar;
}[] = [
  {
    disk: 'plain',
    peer: 'qemu',
    workloads: ['randomRead1', 'randomRead32'],
    bar: { atLeast: 1 },
  },
  {
    disk: 'sealed',
    peer: 'plain',
    workloads: ['randomRead32', 'randomWrite32'],
    bar: { atLeast: 0.3 },
  },
  {
    disk: 'sealed',
    peer: 'plain',
    workloads: ['sequentialRead', 'sequentialWrite'],
    bar: { atLeast: 0.5 },
  },
];
/** Without a bar, unless one is above. */
const PEERS: readonly (readonly [DiskName, DiskName])[] = [
  ['plain', 'qemu'],
  ['sealed', 'qemu'],
  ['sealedIommu', 'qemu'],
  ['sealed', 'plain'],
  ['sealedIommu', 'plain'],
  ['sealedIommu', 'sealed'],
  ['spdk', 'qemu'],
  ['plain', 'spdk'],
];

/** In memory, so that what is measured is the way to the disk. */
const DIRECTORY = '/dev/shm';
const FILE_BYTES = 512 * 2 ** 20;
/** A file a disk, and the guests' root disks, which are sparse. */
const ROOM_BYTES = 4 * FILE_BYTES + 3 * 2 ** 30;
const ROUNDS = 3;
const TIMES: FioTimes = { ramp_s: 0.3, run_s: 2 };
const QUICK_ROUNDS = 1;
const QUICK_TIMES: FioTimes = { ramp_s: 0.3, run_s: 1 };
const IDLE_SAMPLE_MS = 3000;

export interface NvmeBenchOptions {
  /** Fewer and shorter rounds: to see that it works, not to cite. */
  readonly quick: boolean;
  /** Virtual CPUs of each guest. */
  readonly cpus: number;
}

/** Medians of the rounds. */
export interface NvmeFigure extends FioFigure {
  readonly workload: WorkloadName;
  readonly disk: DiskName;
  /** Of each round. */
  readonly roundsIops: readonly number[];
}

export interface NvmeComparison extends Comparison {
  readonly workload: WorkloadName;
  readonly disk: DiskName;
}

/** The ratio on top is that of random reads at depth 1 in plain RAM. */
export interface NvmeResult extends Comparison {
  readonly engine: string;
  readonly cpus: number;
  readonly file_bytes: number;
  readonly run_s: number;
  readonly figures: readonly NvmeFigure[];
  readonly comparisons: readonly NvmeComparison[];
  /** Whether there was an SPDK target to compare with. */
  readonly spdk: string;
  /** Share of a CPU that a guest's QEMU takes while all rest. */
  readonly idleCpuShare: Readonly<Record<string, number>>;
  /** The host's load average of a minute, as each round began. */
  readonly loads: readonly number[];
}

/**
 * @throws FuseUnavailable, VmError, SetupError, ImageError; Error where there is no room in memory, or
 *   fio fails
 */
export async function benchNvme(
  { parts, say, signal }: BenchContext,
  { quick, cpus }: NvmeBenchOptions,
): Promise<NvmeResult> {
  await using stack = new AsyncDisposableStack();
  const files = diskFiles(stack);
  const target = await spdkTarget(stack, files.directory, say);
  const ours = (name: DiskName): DiskSource => ({ by: 'sealbus', file: files.of(name) });
  const common = { parts, cpus, directory: files.directory, say };
  say('booting three guests side by side');
  const guests = await bootGuests(stack, signal, {
    plain: {
      ...common,
      ...{ memory: 'plain', iommu: 'identity' },
      disks: [
        { by: 'qemu', file: files.of('qemu') },
        ours('plain'),
        ...(target === undefined ? [] : [{ by: 'socket' as const, socket: target.socket }]),
      ],
    },
    sealed: { ...common, memory: 'sealed', iommu: 'identity', disks: [ours('sealed')] },
    sealedIommu: { ...common, memory: 'sealed', iommu: 'virtio', disks: [ours('sealedIommu')] },
  });
  const { plain, sealed, sealedIommu } = guests;
  const places: readonly DiskPlace[] = [
    { name: 'qemu', guest: plain, device: plain.disks[0] as string },
    { name: 'plain', guest: plain, device: plain.disks[1] as string },
    { name: 'sealed', guest: sealed, device: sealed.disks[0] as string },
    { name: 'sealedIommu', guest: sealedIommu, device: sealedIommu.disks[0] as string },
    ...(target === undefined
      ? []
      : [{ name: 'spdk' as const, guest: plain, device: plain.disks[2] as string, target }]),
  ];

  const rounds = quick ? QUICK_ROUNDS : ROUNDS;
  const loads: number[] = [];
  let idleCpuShare: Record<string, number> = {};
  const run = async (place: DiskPlace, workload: WorkloadName) => {
    const times = quick || loads.length === 1 ? QUICK_TIMES : TIMES;
    const figure = await untilAborted(signal, measure(place, WORKLOADS[workload], times));
    say(`${workload}, ${place.name}: ${Math.round(figure.iops)} IOPS`);
    return figure;
  };
  // All disks do one workload before any does the next: what is compared is close in time.
  const runs = Object.fromEntries(
    WORKLOAD_NAMES.flatMap((workload) =>
      places.map((place) => [`${workload} ${place.name}`, () => run(place, workload)]),
    ),
  );
  const measured = await interleaved(rounds, runs, async (round) => {
    // Not before: what a boot leaves to be written is done by then.
    if (round === 1) idleCpuShare = await idleShares(guests);
    loads.push(rounded(loadavg()[0] ?? 0));
    say(round === 0 ? 'to warm up' : `round ${round} of ${rounds}, load ${loads.at(-1)}`);
  });
  const figures = WORKLOAD_NAMES.flatMap((workload) =>
    places.map(({ name }) => figureOf(workload, name, measured[`${workload} ${name}`] ?? [])),
  );
  const comparisons = comparisonsOf(figures, rounds);
  const first = comparisons[0];
  if (first === undefined) throw new Error('expected figures to compare, got none');
  const { ratio, peer, bar, met } = first;
  return {
    ...{ ratio, peer, bar, met, rounds },
    ...{
      engine: FIO_ENGINE,
      cpus,
      file_bytes: FILE_BYTES,
      run_s: (quick ? QUICK_TIMES : TIMES).run_s,
    },
    ...{ figures, comparisons, idleCpuShare, loads },
    spdk: target?.program ?? `not measured: none of ${SPDK_PROGRAMS.join(', ')} on PATH`,
  };
}

interface DiskPlace {
  readonly name: DiskName;
  readonly guest: NvmeGuest;
  readonly device: string;
  readonly target?: SpdkTarget;
}

async function measure(
  { guest, device, target }: DiskPlace,
  workload: Workload,
  times: FioTimes,
): Promise<FioFigure> {
  target?.resume();
  try {
    return await runFio(guest.vm, device, workload, times);
  } finally {
    // It would poll, and take a CPU from all others.
    target?.pause();
  }
}

type GuestWishes = Omit<NvmeGuestOptions, 'signal'>;

/** All of them or none: where one does not boot, the others are ended. */
async function bootGuests<Names extends string>(
  stack: AsyncDisposableStack,
  signal: AbortSignal,
  wishes: Readonly<Record<Names, GuestWishes>>,
): Promise<Record<Names, NvmeGuest>> {
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  const names = Object.keys(wishes) as Names[];
  const boots = names.map((name) => bootNvmeGuest({ ...wishes[name], signal: either }));
  // The first to fail is the reason; those that it ends say no more than that.
  for (const boot of boots) boot.catch((error) => failed.abort(error));
  const guests: NvmeGuest[] = [];
  for (const end of await Promise.allSettled(boots)) {
    if (end.status === 'fulfilled') guests.push(stack.use(end.value));
  }
  either.throwIfAborted();
  return Object.fromEntries(names.map((name, at) => [name, guests[at]])) as Record<
    Names,
    NvmeGuest
  >;
}

/** A file of the same bytes for each disk, in memory: who writes an image has it alone. */
function diskFiles(stack: AsyncDisposableStack) {
  const { bavail, bsize } = statfsSync(DIRECTORY);
  if (bavail * bsize < ROOM_BYTES) {
    throw new Error(
      `expected ${ROOM_BYTES / 2 ** 20} MiB of room in ${DIRECTORY} for the disks, ` +
        `got ${Math.floor((bavail * bsize) / 2 ** 20)} MiB`,
    );
  }
  const directory = mkdtempSync(join(DIRECTORY, 'sealbus-bench-'));
  stack.defer(() => rmSync(directory, { recursive: true, force: true }));
  const of = (name: DiskName) => join(directory, `${name}.img`);
  fillRandomly(of('qemu'), FILE_BYTES);
  for (const name of ['plain', 'sealed', 'sealedIommu'] as const) {
    copyFileSync(of('qemu'), of(name));
  }
  return { directory, of };
}

async function spdkTarget(
  stack: AsyncDisposableStack,
  directory: string,
  say: (words: string) => void,
): Promise<SpdkTarget | undefined> {
  const program = spdkProgram();
  if (program === undefined) {
    say(`no SPDK target to compare with: none of ${SPDK_PROGRAMS.join(', ')} on PATH`);
    return undefined;
  }
  const target = stack.use(await startSpdk(program, directory, FILE_BYTES));
  return target;
}

async function idleShares(
  guests: Readonly<Record<string, NvmeGuest>>,
): Promise<Record<string, number>> {
  const seconds = () => Object.values(guests).map(({ vm }) => cpuSeconds(vm.pid));
  const before = seconds();
  const began = performance.now();
  await sleep(IDLE_SAMPLE_MS);
  const passed_s = (performance.now() - began) / 1000;
  const after = seconds();
  return Object.fromEntries(
    Object.keys(guests).map((name, at) => {
      return [name, rounded(((after[at] ?? 0) - (before[at] ?? 0)) / passed_s)];
    }),
  );
}

function figureOf(
  workload: WorkloadName,
  disk: DiskName,
  rounds: readonly FioFigure[],
): NvmeFigure {
  const middle = (key: keyof FioFigure) => rounded(median(rounds.map((one) => one[key])));
  return {
    ...{ workload, disk, iops: middle('iops'), mib_s: middle('mib_s'), p99_us: middle('p99_us') },
    roundsIops: rounds.map(({ iops }) => rounded(iops)),
  };
}

/** Of IOPS: for one size of block that is the ratio of bytes, too. */
export function comparisonsOf(figures: readonly NvmeFigure[], rounds: number): NvmeComparison[] {
  const iops = (disk: DiskName, workload: WorkloadName) =>
    figures.find((figure) => figure.disk === disk && figure.workload === workload)?.iops;
  return PEERS.flatMap(([disk, other]) =>
    WORKLOAD_NAMES.flatMap((workload) => {
      const [mine, theirs] = [iops(disk, workload), iops(other, workload)];
      if (mine === undefined || theirs === undefined) return [];
      const bar = BARS.find(
        (one) => one.disk === disk && one.peer === other && one.workloads.includes(workload),
      )?.bar;
      const about = { peer: DISKS[other], rounds, ...(bar === undefined ? {} : { bar }) };
      return [{ workload, disk, ...compare(mine, theirs, about) }];
    }),
  );
}
