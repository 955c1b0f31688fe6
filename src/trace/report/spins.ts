import type { RegisterEvent } from '../event.ts';

/** Reads of one register in a row with one value from which on a driver is said to spin. */
export const SPIN_READS = 16;

/** How a driver waited for one register to change. */
export interface Spin {
  readonly register: string;
  /** How many times it spun on it. */
  readonly times: number;
  /** Reads in all of them. */
  readonly reads: number;
  readonly longest: {
    readonly reads: number;
    /** Nanoseconds from its first read to its last. */
    readonly ns: number;
    /** Since the trace began. */
    readonly t: number;
    readonly value: string;
  };
}

interface Run {
  readonly register: string;
  readonly value: string;
  readonly began: number;
  last: number;
  reads: number;
}

/** Spinning of a driver on registers of one function. */
export class Spins {
  readonly #spins = new Map<string, { -readonly [K in keyof Spin]: Spin[K] }>();
  #run: Run | undefined;

  access(event: RegisterEvent): void {
    const { direction, value, t } = event;
    const register = placeName(event);
    const run = this.#run;
    if (direction === 'read' && run?.register === register && run.value === value) {
      run.reads++;
      run.last = t;
      return;
    }
    this.#settle();
    this.#run = direction === 'read' ? { register, value, began: t, last: t, reads: 1 } : undefined;
  }

  /** Those who were read most come first. */
  get spins(): readonly Spin[] {
    this.#settle();
    return [...this.#spins.values()].sort((a, b) => b.reads - a.reads);
  }

  #settle(): void {
    const run = this.#run;
    this.#run = undefined;
    if (run === undefined || run.reads < SPIN_READS) return;
    const { register, reads, value, began: t } = run;
    const longest = { reads, ns: run.last - t, t, value };
    const known = this.#spins.get(register);
    if (known === undefined) {
      this.#spins.set(register, { register, times: 1, reads, longest });
      return;
    }
    known.times++;
    known.reads += reads;
    if (reads > known.longest.reads) known.longest = longest;
  }
}

/** What to call the place of an access, also where no register is. */
export function placeName({ register, bar, offset }: RegisterEvent): string {
  return register ?? `BAR${bar}+0x${offset.toString(16)}`;
}
