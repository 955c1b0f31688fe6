import type { RandomStream } from './random-stream.ts';

/** When an armed fault strikes: exactly one of `rate`, `nth`, `every` and `when`. */
export type TriggerOptions<Context> = {
  /** At most so many strikes at each function; after them it stays quiet there. Default: no bound. */
  readonly times?: number;
} & (
  | {
      /** The probability of each occasion, 0 to 1. */
      readonly rate: number;
      readonly nth?: never;
      readonly every?: never;
      readonly when?: never;
    }
  | {
      /** One occasion alone, counted from 1. */
      readonly nth: number;
      readonly rate?: never;
      readonly every?: never;
      readonly when?: never;
    }
  | {
      /** Each occasion whose number is a multiple of this: 1 is all of them. */
      readonly every: number;
      readonly rate?: never;
      readonly nth?: never;
      readonly when?: never;
    }
  | {
      /** Each occasion of which this is true. What it throws comes out where the fault would have struck. */
      readonly when: (context: Context) => boolean;
      readonly rate?: never;
      readonly nth?: never;
      readonly every?: never;
    }
);

/** The options by name, for those that come as text. */
export const TRIGGERS = {
  rate: 'the probability of each occasion, 0 to 1',
  nth: 'that occasion alone, from 1',
  every: 'each occasion whose number is a multiple of this, from 1',
} as const;

const KINDS = ['rate', 'nth', 'every', 'when'] as const;

/** Counts a fault's occasions at one function and says which of them are its. */
export class Trigger<Context> {
  readonly #options: TriggerOptions<Context>;
  readonly #stream: RandomStream;
  readonly #times: number;
  #occasions = 0;
  #strikes = 0;

  /** @throws TypeError as {@link checkTrigger}; RangeError */
  constructor(options: TriggerOptions<Context>, stream: RandomStream) {
    checkTrigger(options);
    this.#options = options;
    this.#stream = stream;
    this.#times = options.times ?? Number.POSITIVE_INFINITY;
  }

  /** So far, the ones it let pass too. */
  get occasions(): number {
    return this.#occasions;
  }

  get strikes(): number {
    return this.#strikes;
  }

  /** One more occasion: whether it is the fault's. What is due need not strike, see {@link struck}. */
  due(context: Context): boolean {
    this.#occasions++;
    // Drawn at each occasion, so that what an earlier one came to changes no later one.
    const wanted = this.#wants(context);
    return wanted && this.#strikes < this.#times;
  }

  struck(): void {
    this.#strikes++;
  }

  #wants(context: Context): boolean {
    const { rate, nth, every, when } = this.#options;
    if (rate !== undefined) return this.#stream.chance(rate);
    if (nth !== undefined) return this.#occasions === nth;
    if (every !== undefined) return this.#occasions % every === 0;
    return when?.(context) === true;
  }
}

/** @throws TypeError where there is not exactly one trigger; RangeError where one has no sense */
export function checkTrigger(options: TriggerOptions<never>): void {
  const given = KINDS.filter((kind) => options[kind] !== undefined);
  if (given.length !== 1) {
    throw new TypeError(
      `expected exactly one of ${KINDS.join(', ')}, got ${given.join(' and ') || 'none'}. ` +
        'Say when the fault is to strike, such as { nth: 1 }',
    );
  }
  const { rate, nth, every, when, times } = options;
  if (rate !== undefined && !(rate >= 0 && rate <= 1)) {
    throw new RangeError(`expected a rate from 0 to 1, got ${String(rate)}`);
  }
  checkCount('nth', nth);
  checkCount('every', every);
  checkCount('times', times);
  if (when !== undefined && typeof when !== 'function') {
    throw new TypeError(`expected a function for when, got ${String(when)}`);
  }
}

function checkCount(name: string, value: number | undefined): void {
  if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1)) {
    throw new RangeError(`expected ${name} to be a whole number from 1 on, got ${String(value)}`);
  }
}
