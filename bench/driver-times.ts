/**
 * Times as the guest's driver sealbus_edu takes them, of several functions in one guest, in interleaved
 * rounds. The rounds are one script, so that the agent's channel is still while they last.
 */
import { median } from './figures.ts';

export type TimedAttribute = 'mmio_read_ns' | 'irq_latency_ns';

/** Nanoseconds in the guest: medians over rounds of a round's median, smallest, 90th of 100 and mean. */
export interface Times {
  readonly median_ns: number;
  readonly min_ns: number;
  readonly p90_ns: number;
  readonly mean_ns: number;
}

export interface TimedRounds {
  /** Addresses in the guest: `0000:00:04.0`. */
  readonly functions: readonly string[];
  readonly attributes: readonly TimedAttribute[];
  readonly rounds: number;
  /** Register reads, or doorbells, of one round. */
  readonly samples: number;
}

interface Round extends Times {
  readonly round: number;
  readonly bdf: string;
  readonly attribute: string;
}

/** A shell script for the guest, in which each function is bound to the driver. */
export function timingScript({ functions, attributes, rounds, samples }: TimedRounds): string {
  const at = (bdf: string) => `/sys/bus/pci/devices/${bdf}`;
  return [
    'set -e',
    ...functions.map((bdf) => `echo ${samples} > ${at(bdf)}/rounds`),
    // One more round, the first, warms up.
    `for round in $(seq 0 ${rounds}); do`,
    ...attributes.flatMap((attribute) =>
      functions.map((bdf) => `echo "$round ${bdf} ${attribute} $(cat ${at(bdf)}/${attribute})"`),
    ),
    'done',
  ].join('\n');
}

/** What the script said, without the round that warmed up. */
export class DriverTimes {
  readonly #rounds: readonly Round[];

  /** @throws Error where a line is not of the driver's form, or one is missing. */
  constructor(text: string, { functions, attributes, rounds }: TimedRounds) {
    const lines = text.trim().split('\n').map(parseLine);
    const expected = (rounds + 1) * attributes.length * functions.length;
    if (lines.length !== expected) {
      throw new Error(`expected ${expected} lines of times, got ${lines.length}`);
    }
    this.#rounds = lines.filter(({ round }) => round > 0);
  }

  /** Of each round, in order. */
  roundsOf(bdf: string, attribute: TimedAttribute): readonly Times[] {
    return this.#rounds.filter((one) => one.bdf === bdf && one.attribute === attribute);
  }

  of(bdf: string, attribute: TimedAttribute): Times {
    const mine = this.roundsOf(bdf, attribute);
    const middle = (key: keyof Times) => median(mine.map((one) => one[key]));
    return {
      ...{ median_ns: middle('median_ns'), min_ns: middle('min_ns') },
      ...{ p90_ns: middle('p90_ns'), mean_ns: middle('mean_ns') },
    };
  }
}

function parseLine(line: string): Round {
  const match = /^(\d+) (\S+) (\w+) median (\d+) min (\d+) p90 (\d+) mean (\d+) /.exec(line);
  if (match === null) throw new Error(`expected the driver's times, got ${JSON.stringify(line)}`);
  const [, round, bdf = '', attribute = '', middle, min, p90, mean] = match;
  return {
    ...{ round: Number(round), bdf, attribute, median_ns: Number(middle), min_ns: Number(min) },
    ...{ p90_ns: Number(p90), mean_ns: Number(mean) },
  };
}
