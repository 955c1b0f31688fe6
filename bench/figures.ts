/** What the benchmarks share: medians of interleaved rounds, and a figure beside its peer's. */

/** A measured value beside the same of a peer, in one run. */
export interface Comparison {
  /** ours / peer's (rates: so too, and then more is better). */
  readonly ratio: number;
  /** What stands below the line of the ratio. */
  readonly peer: string;
  /** What the ratio must hold, or null where there is none. */
  readonly bar: Bar | null;
  /** Null where there is no bar. */
  readonly met: boolean | null;
  readonly rounds: number;
}

export type Bar = { readonly atMost: number } | { readonly atLeast: number };

/** @throws RangeError where a value is no positive number: a ratio of such would say nothing. */
export function compare(
  ours: number,
  theirs: number,
  about: { readonly peer: string; readonly bar?: Bar; readonly rounds: number },
): Comparison {
  if (!(ours > 0 && theirs > 0 && Number.isFinite(ours) && Number.isFinite(theirs))) {
    throw new RangeError(`expected two positive figures to compare, got ${ours} and ${theirs}`);
  }
  const { peer, rounds, bar = null } = about;
  const ratio = ours / theirs;
  return { ratio: rounded(ratio), peer, bar, met: bar === null ? null : meets(ratio, bar), rounds };
}

export function meets(ratio: number, bar: Bar): boolean {
  return 'atMost' in bar ? ratio <= bar.atMost : ratio >= bar.atLeast;
}

/** @returns the middle value (the upper one of two), or NaN of none */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The value below which a share of all lie; of none, NaN. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/**
 * Calls all in turn, `rounds` times over, so that what disturbs the machine meets each of them alike.
 * One more round comes first and is not kept.
 * @returns what each answered, in the order of the rounds
 */
export async function interleaved<Names extends string, Value>(
  rounds: number,
  runs: Readonly<Record<Names, () => Value | Promise<Value>>>,
  onRound: (round: number) => void | Promise<void> = () => {},
): Promise<Record<Names, Value[]>> {
  const names = Object.keys(runs) as Names[];
  const values = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<
    Names,
    Value[]
  >;
  for (let round = 0; round <= rounds; round++) {
    await onRound(round);
    for (const name of names) {
      const value = await runs[name]();
      if (round > 0) values[name].push(value);
    }
  }
  return values;
}

/** Four significant digits: more would pretend. */
export function rounded(value: number): number {
  return Number(value.toPrecision(4));
}

export function formatBar(bar: Bar): string {
  return 'atMost' in bar ? `≤ ${bar.atMost}` : `≥ ${bar.atLeast}`;
}
