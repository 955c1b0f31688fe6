/**
 * What rotations cost a guest: fio on our NVMe in a Debian in 512 MiB of sealed memory, at rest and while its
 * key is rotated, one time after the other and without a pause between. `npm run bench -- rotation-fio`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { ROTATION_DUTY_DEFAULT } from '../src/keys/rotation-duty.ts';
import type { RotationProgress } from '../src/keys/slot-keeper.ts';
import type { Machine } from '../src/machine/machine.ts';
import type { VirtualMachine } from '../src/vm/virtual-machine.ts';
import type { BenchContext } from './bench-context.ts';
import { type Comparison, compare, interleaved, median, rounded } from './figures.ts';
import { type FioTimes, runFio, type Workload } from './fio.ts';
import { bootNvmeGuest, untilAborted } from './nvme-guest.ts';
import { fillRandomly } from './random-file.ts';
import { PlainPass } from './rotation.ts';

const WORKLOADS = {
  randomRead1: { pattern: 'randread', block_bytes: 4096, depth: 1 },
  randomRead32: { pattern: 'randread', block_bytes: 4096, depth: 32 },
  randomWrite32: { pattern: 'randwrite', block_bytes: 4096, depth: 32 },
  sequentialRead: { pattern: 'read', block_bytes: 131_072, depth: 8 },
} as const satisfies Readonly<Record<string, Workload>>;

type WorkloadName = keyof typeof WORKLOADS;
const WORKLOAD_NAMES = Object.keys(WORKLOADS) as WorkloadName[];

const GUEST_BYTES = 512 * 2 ** 20;
const FILE_BYTES = 256 * 2 ** 20;
/** Left to fio and to the system. */
const SPARE_MIB = 64;
const FILL_TIMEOUT_MS = 120_000;
/** In memory, so that what is measured is the way to the disk. */
const DIRECTORY = '/dev/shm';
const ROUNDS = 5;
const TIMES: FioTimes = { ramp_s: 0.3, run_s: 2 };
/** What a rotation may have of the controller's thread: by default, and where guests are to lose little. */
const DUTIES = [ROTATION_DUTY_DEFAULT, 20] as const;
const BAR = { atLeast: 0.7 } as const;
const ELAPSED_BAR = { atMost: 3 } as const;

export interface RotationFioFigure extends Comparison {
  readonly workload: WorkloadName;
  /** Percent. */
  readonly duty: number;
  readonly rest_iops: number;
  readonly rotating_iops: number;
  /** Rotations that fio was at work during from their beginning to their end; the medians are over these. */
  readonly rotations: number;
  readonly rotation_ms: number;
  readonly work_ms: number;
  readonly movedPages: number;
  /** A rotation from its beginning to its end, beside a plain pass of the engine over the guest's memory. */
  readonly elapsed: Comparison;
}

/** The ratio on top is the least of the workloads' by default. */
export interface RotationFioResult extends Comparison {
  readonly figures: readonly RotationFioFigure[];
  /** A plain pass of the engine over as many bytes as the guest has. */
  readonly pass_ms: number;
  /** The host's load average of a minute, as each round began. */
  readonly loads: readonly number[];
}

/** @throws FuseUnavailable, VmError, SetupError, ImageError; Error where fio fails */
export async function benchRotationFio({
  parts,
  say,
  signal,
}: BenchContext): Promise<RotationFioResult> {
  await using stack = new AsyncDisposableStack();
  const directory = stack.adopt(mkdtempSync(join(DIRECTORY, 'sealbus-bench-')), (path) =>
    rmSync(path, { recursive: true, force: true }),
  );
  const file = join(directory, 'disk');
  fillRandomly(file, FILE_BYTES);
  say('booting a Debian');
  const guest = stack.use(
    await bootNvmeGuest({
      ...{ parts, directory, say, signal },
      ...{ memory: 'sealed', iommu: 'identity', cpus: 1, bytes: GUEST_BYTES },
      disks: [{ by: 'sealbus', file }],
    }),
  );
  await fillMemory(guest.vm);
  // What is in the page cache alone is not in DRAM, and no rotation's.
  await guest.machine.sealed?.flush();
  const [device = ''] = guest.disks;
  const run = async (workload: WorkloadName) => {
    const { iops } = await untilAborted(
      signal,
      runFio(guest.vm, device, WORKLOADS[workload], TIMES),
    );
    return iops;
  };
  const cases = WORKLOAD_NAMES.flatMap((workload) =>
    DUTIES.map((duty) => ({
      ...{ workload, duty, name: `${workload} at ${duty} %` },
      rotations: [] as TimedRotation[],
    })),
  );
  const rotating = cases.map(({ workload, duty, name, rotations }) => [
    name,
    async () => {
      const during = await rotatingDuring(guest.machine, duty, () => run(workload));
      rotations.push(...loaded(during.rotations));
      return during.result;
    },
  ]);
  const atRest = WORKLOAD_NAMES.map((workload) => [workload, () => run(workload)]);
  const loads: number[] = [];
  const measured = await interleaved(
    ROUNDS,
    Object.fromEntries([...atRest, ...rotating]) as Record<string, () => Promise<number>>,
    (round) => {
      loads.push(rounded(loadavg()[0] ?? 0));
      say(round === 0 ? 'to warm up' : `round ${round} of ${ROUNDS}, load ${loads.at(-1)}`);
    },
  );
  const pass_ms = plainPass();
  const figures = cases.map(({ workload, duty, name, rotations }): RotationFioFigure => {
    const rest_iops = median(measured[workload] ?? []);
    const rotating_iops = median(measured[name] ?? []);
    const of = (value: (rotation: TimedRotation) => number) =>
      rounded(median(rotations.map(value)));
    const rotation_ms = of(({ ms }) => ms);
    return {
      ...compare(rotating_iops, rest_iops, {
        ...{ peer: 'the same at rest', bar: BAR, rounds: ROUNDS },
      }),
      ...{ workload, duty },
      rest_iops: rounded(rest_iops),
      rotating_iops: rounded(rotating_iops),
      rotations: rotations.length,
      rotation_ms,
      work_ms: of(({ end }) => end.workMs),
      movedPages: of(({ end }) => end.movedPages),
      elapsed: compare(rotation_ms, pass_ms, {
        ...{ peer: 'a plain pass over the guest’s memory', bar: ELAPSED_BAR },
        rounds: rotations.length,
      }),
    };
  });
  const least = figures
    .filter(({ duty }) => duty === ROTATION_DUTY_DEFAULT)
    .reduce((worst, one) => (one.ratio < worst.ratio ? one : worst));
  const { ratio, bar, met, rounds } = least;
  return {
    ...{ ratio, peer: `${least.workload} at rest`, bar, met, rounds },
    ...{ figures, pass_ms: rounded(pass_ms), loads },
  };
}

/** What the guest has not used would be zeros, which a rotation need not move: files in memory take it. */
async function fillMemory(vm: VirtualMachine): Promise<void> {
  const words = `
    mkdir -p /run/filled && mount -t tmpfs -o size=100% filled /run/filled
    free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
    head -c $((free - ${SPARE_MIB}))M /dev/urandom > /run/filled/file`;
  await vm.check(['sh', '-ec', words], { timeoutMs: FILL_TIMEOUT_MS });
}

interface TimedRotation {
  readonly end: RotationProgress;
  readonly ms: number;
  /** Of the guest's functions, while it was under way. */
  readonly dmaAccesses: number;
}

/** Rotates the VM's key as long as `run` runs. */
async function rotatingDuring(
  { keys, slot, sealed }: Machine,
  duty: number,
  run: () => Promise<number>,
): Promise<{ readonly result: number; readonly rotations: readonly TimedRotation[] }> {
  if (sealed === undefined) throw new Error('expected sealed memory, got plain');
  const accesses = async () => {
    const { dmaReads, dmaWrites } = await sealed.counters();
    return dmaReads + dmaWrites;
  };
  let isOver = false;
  const running = run().finally(() => {
    isOver = true;
  });
  running.catch(() => {}); // awaited below
  const rotations: TimedRotation[] = [];
  let before = await accesses();
  while (!isOver) {
    const begun = performance.now();
    await keys.rotate(slot, { duty });
    const end = await keys.rotated(slot);
    const ms = performance.now() - begun;
    const now = await accesses();
    rotations.push({ end, ms, dmaAccesses: now - before });
    before = now;
  }
  return { result: await running, rotations };
}

/**
 * Those of a run during which fio was at work: it takes a while to start in the guest and to end, and what
 * rotates meanwhile has the machine for itself.
 */
function loaded(rotations: readonly TimedRotation[]): TimedRotation[] {
  const rate = ({ dmaAccesses, ms }: TimedRotation) => dmaAccesses / ms;
  const most = Math.max(...rotations.map(rate));
  return rotations.filter((rotation) => rate(rotation) >= most / 2);
}

function plainPass(): number {
  using pass = new PlainPass(GUEST_BYTES);
  return median(Array.from({ length: 9 }, () => pass.run()));
}
