/** What it takes to make pages of guest RAM shared or private, and how it may end; see shared-pages.ts. */
import { type Gpa, MemoryError } from './guest-memory.ts';

/** Whole pages of guest RAM, as the guest has them. */
export interface PageRange {
  /** Of its first byte; a multiple of 4096. */
  readonly address: Gpa;
  /** A multiple of 4096. */
  readonly bytes: number;
}

export interface ConversionOptions {
  /** Whether the pages keep their content; else they are zeros. */
  readonly keep: boolean;
}

/** A conversion that stopped on its way. */
export class ConversionError extends MemoryError {
  /** Bytes from its beginning that are converted; the rest are what they were. */
  readonly converted: number;

  constructor(cause: MemoryError, converted: number, length: number) {
    super(`${cause.message} (${converted} of ${length} bytes were converted before)`, { cause });
    this.converted = converted;
  }
}

/** That may wait for those before them. */
const WAITING_MAX = 64;

/**
 * The conversions of one RAM file: one at a time, in the order in which they were asked for. A long one takes many
 * turns of the event loop, and of two that overlap the later one has the last word on every page.
 */
export class ConversionOrder {
  #last: Promise<void> = Promise.resolve();
  #waiting = 0;

  /** @throws MemoryError where too many wait; as `convert` */
  async afterOthers(convert: () => Promise<void>): Promise<void> {
    if (this.#waiting >= WAITING_MAX) {
      throw new MemoryError(
        `expected at most ${WAITING_MAX} conversions of a memory at a time, got one more: wait for some`,
      );
    }
    this.#waiting++;
    const mine = this.#last.then(convert);
    this.#last = mine.catch(() => {}).finally(() => this.#waiting--);
    await mine;
  }
}
