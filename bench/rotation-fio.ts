/**
 * What rotations cost a guest: fio on our NVMe in a Debian in 512 MiB of sealed memory, at rest and while its
 * key is rotated, one time after the other and without a pause between. `npm run bench -- rotation-fio`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import type { RotationProgress } from '../src/keys/slot-keeper.ts';
import type { Machine } from '../src/machine/machine.ts';
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
const PAGE_BYTES = 4096;
/** In memory, so that what is measured is the way to the disk. */
const DIRECTORY = '/dev/shm';
const ROUNDS = 5;
const TIMES: FioTimes = { ramp_s: 0.3, run_s: 2 };
const BAR = { atLeast: 0.7 } as const;

export interface RotationFioFigure extends Comparison {
  readonly workload: WorkloadName;
  readonly rest_iops: number;
  readonly rotating_iops: number;
  /** Medians over the rotations that ended meanwhile. */
  readonly rotations: number;
  readonly rotation_ms: number;
  readonly work_ms: number;
  readonly movedPages: number;
}

/** The ratio on top is the least of the workloads'. */
export interface RotationFioResult extends Comparison {
  readonly figures: readonly RotationFioFigure[];
  /**
   * What a rotation had of the controller's thread, beside a plain pass over what it moved; in a thread
   * that is not interrupted it would be as without a guest.
   */
  readonly workRatio: number;
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
  const [device = ''] = guest.disks;
  const ended: Record<WorkloadName, TimedRotation[]> = {
    ...{ randomRead1: [], randomRead32: [], randomWrite32: [], sequentialRead: [] },
  };
  const run = async (workload: WorkloadName) => {
    const { iops } = await untilAborted(
      signal,
      runFio(guest.vm, device, WORKLOADS[workload], TIMES),
    );
    return iops;
  };
  const runs = Object.fromEntries(
    WORKLOAD_NAMES.flatMap((workload) => [
      [`${workload} rest`, () => run(workload)],
      [
        `${workload} rotating`,
        () => rotatingDuring(guest.machine, ended[workload], () => run(workload)),
      ],
    ]),
  );
  const loads: number[] = [];
  const measured = await interleaved(ROUNDS, runs, (round) => {
    loads.push(rounded(loadavg()[0] ?? 0));
    say(round === 0 ? 'to warm up' : `round ${round} of ${ROUNDS}, load ${loads.at(-1)}`);
  });
  const figures = WORKLOAD_NAMES.map((workload): RotationFioFigure => {
    const rest_iops = median(measured[`${workload} rest`] ?? []);
    const rotating_iops = median(measured[`${workload} rotating`] ?? []);
    const rotations = ended[workload];
    const of = (value: (rotation: TimedRotation) => number) =>
      rounded(median(rotations.map(value)));
    return {
      ...compare(rotating_iops, rest_iops, {
        ...{ peer: 'the same at rest', bar: BAR, rounds: ROUNDS },
      }),
      workload,
      rest_iops: rounded(rest_iops),
      rotating_iops: rounded(rotating_iops),
      rotations: rotations.length,
      rotation_ms: of(({ ms }) => ms),
      work_ms: of(({ end }) => end.workMs),
      movedPages: of(({ end }) => end.movedPages),
    };
  });
  const least = figures.reduce((worst, one) => (one.ratio < worst.ratio ? one : worst));
  const { ratio, bar, met, rounds } = least;
  return {
    ...{ ratio, peer: `${least.workload} at rest`, bar, met, rounds },
    ...{ figures, workRatio: workRatio(Object.values(ended).flat()), loads },
  };
}

interface TimedRotation {
  readonly end: RotationProgress;
  readonly ms: number;
}

/** Rotates the VM's key as long as `run` runs. */
async function rotatingDuring(
  { keys, slot }: Machine,
  ended: TimedRotation[],
  run: () => Promise<number>,
): Promise<number> {
  let isOver = false;
  const running = run().finally(() => {
    isOver = true;
  });
  running.catch(() => {}); // awaited below
  while (!isOver) {
    const begun = performance.now();
    await keys.rotate(slot);
    const end = await keys.rotated(slot);
    ended.push({ end, ms: performance.now() - begun });
  }
  return await running;
}

function workRatio(rotations: readonly TimedRotation[]): number {
  const bytes = median(rotations.map(({ end }) => end.movedPages)) * PAGE_BYTES;
  using pass = new PlainPass(bytes - (bytes % (64 * 1024)));
  const passes = Array.from({ length: 9 }, () => pass.run());
  return rounded(median(rotations.map(({ end }) => end.workMs)) / median(passes));
}
