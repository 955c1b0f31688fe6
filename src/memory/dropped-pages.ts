const PAGE_BYTES = 4096;

/**
 * Which pages of a RAM file are known to be out of the CPU's cache, so that a DMA write of them need
 * not have the kernel drop them first (dma-gate.ts counts the fills that this rests on).
 *
 * The kernel dropped a page for a DMA write that was done at a fill count of n: then it was out of the
 * cache when DRAM changed, and it comes back only by a READ, which makes the count n + 1. As long as
 * the count is n the page is out. The count may rise at any moment after {@link expected} is taken:
 * that is what the controller looks for once more, on the thread that answers READs, before it
 * changes DRAM.
 *
 * One thing brings a page into the cache without a READ: a write through the page cache of the whole of
 * it, which a direct write falls back to where the kernel could not drop the page. So whoever asks the
 * kernel for a direct write {@link forget}s the range first, and {@link note}s it when it was done.
 * Nobody else writes to the file with write(2): QEMU maps it, in a directory of this user's alone.
 */
export class DroppedPages {
  readonly #fills: Uint32Array;
  /** The fill count plus one at which a page was dropped; 0 where that is not known. */
  readonly #droppedAt: Uint32Array;

  /** @param fills the gate's counters, one a page, which the controller counts up. */
  constructor(fills: Uint32Array) {
    this.#fills = fills;
    this.#droppedAt = new Uint32Array(fills.length);
  }

  /** A direct write of the range is asked for: until it is done nothing is known of its pages. */
  forget(offset: number, length: number): void {
    this.#droppedAt.fill(0, Math.floor(offset / PAGE_BYTES), pageAfter(offset, length));
  }

  /**
   * A direct write of the range was done, and the controller saw the sum of fills that it was asked
   * with: `expected`. Pages that were filled since are in the cache again, and not noted.
   */
  note(offset: number, length: number, expected: number): void {
    const first = Math.floor(offset / PAGE_BYTES);
    const after = pageAfter(offset, length);
    let sum = 0;
    for (let page = first; page < after; page++) {
      const fills = this.#fills[page] ?? 0;
      sum = (sum + fills) >>> 0;
      this.#droppedAt[page] = fills + 1;
    }
    // Counters only rise, so an equal sum is each of them as it was.
    if (sum !== expected) this.#droppedAt.fill(0, first, after);
  }

  /**
   * The sum of fills at which all pages of the range are out of the cache, or undefined where one may
   * be in it.
   */
  expected(offset: number, length: number): number | undefined {
    const after = pageAfter(offset, length);
    let sum = 0;
    for (let page = Math.floor(offset / PAGE_BYTES); page < after; page++) {
      const droppedAt = this.#droppedAt[page] ?? 0;
      if (droppedAt === 0 || droppedAt - 1 !== this.#fills[page]) return undefined;
      sum = (sum + droppedAt - 1) >>> 0;
    }
    return sum;
  }
}

function pageAfter(offset: number, length: number): number {
  return Math.floor((offset + length - 1) / PAGE_BYTES) + 1;
}
