interface Range {
  readonly start: number;
  /** One past its last byte. */
  readonly end: number;
}

/** What is free of a stretch of addresses: first fit, and neighbours grow together again. */
export class FreeRanges {
  /** In the order of their addresses; no two touch. */
  readonly #free: Range[];

  constructor(start: number, end: number) {
    this.#free = start < end ? [{ start, end }] : [];
  }

  /** The most bytes that one {@link take} without alignment could get. */
  get largest(): number {
    return this.#free.reduce((most, { start, end }) => Math.max(most, end - start), 0);
  }

  /** @returns the address of `length` bytes, a multiple of `align`; undefined where there is no room */
  take(length: number, align: number): number | undefined {
    for (const [index, { start, end }] of this.#free.entries()) {
      const at = Math.ceil(start / align) * align;
      if (at + length > end) continue;
      const rest = [
        { start, end: at },
        { start: at + length, end },
      ].filter((range) => range.start < range.end);
      this.#free.splice(index, 1, ...rest);
      return at;
    }
    return undefined;
  }

  /** Gives back what {@link take} gave. */
  give(start: number, length: number): void {
    const end = start + length;
    const found = this.#free.findIndex((range) => range.start >= end);
    const index = found < 0 ? this.#free.length : found;
    const before = this.#free[index - 1];
    const after = this.#free[index];
    const joinsBefore = before?.end === start;
    const joinsAfter = after?.start === end;
    this.#free.splice(joinsBefore ? index - 1 : index, Number(joinsBefore) + Number(joinsAfter), {
      start: joinsBefore ? before.start : start,
      end: joinsAfter ? after.end : end,
    });
  }
}
