/**
 * What a trace costs a register read, as the guest sees it: one guest with three edu functions of one
 * process, of which one is traced to a file, as `sealbus trace` does it, and two are not. The two beside
 * each other are the same thing twice: they say how much two figures differ by chance.
 * `node bench/main.ts --only trace`.
 *
 * Guest and devices are on one core, where a read is shortest, and then on two. Each round has a ratio of
 * its own, of the traced function to those right before and right after it, and the figure is the middle
 * one of those: what else runs on the machine changes more from round to round than a trace costs.
 *
 * Where nothing is traced there is nothing to measure: the server then holds the device itself, for no
 * instrument has put anything around it, and a DMA makes one comparison, which the `dma` part has in it.
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Edu } from '../src/devices/edu/edu.ts';
import type { Instrument } from '../src/machine/instrument.ts';
import { Machine } from '../src/machine/machine.ts';
import { parseRequesterId } from '../src/pci/requester-id.ts';
import { Trace } from '../src/trace/trace.ts';
import { readTraceEnd } from '../src/trace/trace-tail.ts';
import type { BenchContext } from './bench-context.ts';
import { DriverTimes, type TimedRounds, type Times, timingScript } from './driver-times.ts';
import { type Comparison, compare, median, rounded } from './figures.ts';
import { allowedCores, coresOf, type Placement, pin } from './placement.ts';

const ROUNDS = 41;
const SAMPLES = 1000;
const BAR = { atMost: 1.1 } as const;
const GUEST_BYTES = 256 * 2 ** 20;
const PLACEMENTS: readonly Placement[] = ['oneCore', 'twoCores'];

const PLAIN = '0000:00:04.0';
const TRACED = '0000:00:05.0';
const PLAIN_AGAIN = '0000:00:06.0';
const TIMED: TimedRounds = {
  functions: [PLAIN, TRACED, PLAIN_AGAIN],
  attributes: ['mmio_read_ns'],
  rounds: ROUNDS,
  samples: SAMPLES,
};

export interface TraceFigure extends Comparison {
  readonly traced: Times;
  readonly untraced: Times;
  /** The ratio of the means, in which what is dear now and then shows: a chunk that is written. */
  readonly meanRatio: number;
  /** Of the other untraced function to the one: what chance does. */
  readonly noise: { readonly ratio: number; readonly meanRatio: number };
}

/** The comparison is the worse one of the two placements. */
export interface TraceResult extends Comparison {
  readonly placements: Readonly<Record<Placement, TraceFigure>>;
  readonly samplesARound: number;
  /** What was written in the meantime. */
  readonly events: number;
  readonly fileBytes: number;
}

/** @throws Error where the guest does not boot, or the trace is not whole. */
export async function benchTrace(context: BenchContext): Promise<TraceResult> {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-bench-'));
  const path = join(directory, 'trace.ndjson');
  try {
    const placements = await measure(path, context);
    const end = readTraceEnd(path);
    if (end === undefined || end.dropped > 0) {
      throw new Error(
        'expected a whole trace, got one that is cut short or has left something out',
      );
    }
    const { oneCore, twoCores } = placements;
    const { ratio, peer, bar, met, rounds } = oneCore.ratio > twoCores.ratio ? oneCore : twoCores;
    return {
      ...{ ratio, peer, bar, met, rounds, placements },
      ...{ samplesARound: SAMPLES, events: end.events, fileBytes: statSync(path).size },
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function measure(
  path: string,
  { parts, say, signal }: BenchContext,
): Promise<Record<Placement, TraceFigure>> {
  await using machine = await Machine.create({
    ...{ parts, memory: 'plain', bytes: GUEST_BYTES, log: say },
    instruments: [onlyAround(TRACED, new Trace({ sink: path }))],
  });
  for (const bdf of TIMED.functions) machine.plug(new Edu(), parseRequesterId(bdf));
  say('booting a guest with a traced function and two that are not');
  const guest = await machine.boot({ signal });
  await guest.insmod('sealbus_edu');
  const allowed = allowedCores();
  const [first = 0, second = first] = coresOf(allowed);
  const figures: [Placement, TraceFigure][] = [];
  try {
    for (const placement of PLACEMENTS) {
      say(`${placement}: ${ROUNDS} interleaved rounds in the guest`);
      pin(guest.pid, String(first));
      pin(process.pid, String(placement === 'oneCore' ? first : second));
      const text = await guest.check(['sh', '-c', timingScript(TIMED)], { timeoutMs: 300_000 });
      figures.push([placement, figureOf(new DriverTimes(text, TIMED))]);
    }
  } finally {
    pin(process.pid, allowed);
  }
  return Object.fromEntries(figures) as Record<Placement, TraceFigure>;
}

function figureOf(times: DriverTimes): TraceFigure {
  const [before, traced, after] = [PLAIN, TRACED, PLAIN_AGAIN].map((bdf) =>
    times.roundsOf(bdf, 'mmio_read_ns'),
  ) as [readonly Times[], readonly Times[], readonly Times[]];
  const each = (ratio: (round: number) => number) => median(traced.map((_, round) => ratio(round)));
  const cost = (key: keyof Times) =>
    each((n) => (2 * at(traced, n, key)) / (at(before, n, key) + at(after, n, key)));
  const chance = (key: keyof Times) => each((n) => at(after, n, key) / at(before, n, key));
  const peer = 'the same device, untraced';
  return {
    ...compare(cost('median_ns'), 1, { peer, bar: BAR, rounds: ROUNDS }),
    traced: times.of(TRACED, 'mmio_read_ns'),
    untraced: times.of(PLAIN, 'mmio_read_ns'),
    meanRatio: rounded(cost('mean_ns')),
    noise: { ratio: rounded(chance('median_ns')), meanRatio: rounded(chance('mean_ns')) },
  };
}

function at(rounds: readonly Times[], round: number, key: keyof Times): number {
  return rounds[round]?.[key] ?? Number.NaN;
}

/** A trace of one function alone; of the IOMMU it records all that there is. */
function onlyAround(bdf: string, trace: Trace): Instrument {
  const traced = parseRequesterId(bdf);
  return {
    install: (machine) => trace.install(machine),
    around: (endpoint, rid, device) =>
      rid === traced ? trace.around(endpoint, rid, device) : endpoint,
    end: () => trace.end(),
  };
}
