import type { RequesterId } from '../pci/requester-id.ts';

/** A fault that struck. */
export interface Strike {
  /** Counts a plan's strikes from 1. */
  readonly sequence: number;
  /** As the catalogue names it. */
  readonly fault: string;
  readonly rid: RequesterId;
  /** Which of the fault's occasions at that function it was, from 1. */
  readonly occasion: number;
  /** What was struck, for people. */
  readonly detail: string;
}

/** The newest that are kept. */
const STRIKES_MAX = 4096;

/** A plan's strikes: the newest of them, and a count of all. */
export class StrikeLog {
  readonly #strikes: Strike[] = [];
  readonly #onStrike: ((strike: Strike) => void) | undefined;
  #total = 0;

  constructor(onStrike?: (strike: Strike) => void) {
    this.#onStrike = onStrike;
  }

  get total(): number {
    return this.#total;
  }

  /** The newest 4096, oldest first. */
  get newest(): readonly Strike[] {
    return this.#strikes;
  }

  add(strike: Omit<Strike, 'sequence'>): void {
    const told: Strike = { sequence: ++this.#total, ...strike };
    this.#strikes.push(told);
    if (this.#strikes.length > STRIKES_MAX) this.#strikes.shift();
    this.#onStrike?.(told);
  }
}
