import { type Iova, iovaOf } from '../../../pci/index.ts';
import { Status } from '../status.ts';
import { FETCH, type PointerStep } from './pointer-step.ts';
import type { Segments } from './segments.ts';

const ENTRY_BYTES = 8;

/**
 * Physical Region Pages, NVMe 1.4 §4.3. PRP1 may begin inside a page; all other entries are whole
 * pages. PRP2 is the second page, or where there are more a list, whose last entry goes on to the next
 * list where the page is too short for all.
 *
 * A walk is bounded: only the first list may begin inside its page, each further one is at offset 0
 * and so holds 511 pages or more.
 */
export class PrpWalk {
  readonly #segments: Segments;
  #pageBytes = 4096;
  /** Bytes of data that have no place yet. */
  #left = 0;
  #entries = 0;
  /** The list, or the part of it, that is wanted next. */
  iova: Iova = 0;

  constructor(segments: Segments) {
    this.#segments = segments;
  }

  /** Bytes of the list at {@link iova} that are wanted. */
  get wanted(): number {
    return this.#entries * ENTRY_BYTES;
  }

  /** @param words the command's 16 dwords */
  begin(words: Uint32Array, length: number, pageBytes: number): PointerStep {
    this.#pageBytes = pageBytes;
    const low = words[6] as number;
    if ((low & 3) !== 0) return Status.prpOffsetInvalid;
    const first = Math.min(length, pageBytes - (low & (pageBytes - 1)));
    this.#segments.add(iovaOf(low, words[7] as number), first);
    this.#left = length - first;
    if (this.#left === 0) return Status.success;
    const low2 = words[8] as number;
    const high2 = words[9] as number;
    if (this.#left <= pageBytes) return this.#page(low2, high2) ? Status.success : INVALID;
    if ((low2 & (ENTRY_BYTES - 1)) !== 0) return INVALID;
    return this.#list(low2, high2);
  }

  /** Goes on with the entries that were wanted. @param list little-endian, two dwords an entry */
  next(list: Uint32Array): PointerStep {
    const chained = this.#entries < this.#pagesLeft();
    const pages = chained ? this.#entries - 1 : this.#entries;
    for (let at = 0; at < pages; at++) {
      if (!this.#page(list[2 * at] as number, list[2 * at + 1] as number)) return INVALID;
    }
    if (!chained) return Status.success;
    const low = list[2 * pages] as number;
    if ((low & (this.#pageBytes - 1)) !== 0) return INVALID;
    return this.#list(low, list[2 * pages + 1] as number);
  }

  #pagesLeft(): number {
    return Math.ceil(this.#left / this.#pageBytes);
  }

  #list(low: number, high: number): PointerStep {
    const room = (this.#pageBytes - (low & (this.#pageBytes - 1))) / ENTRY_BYTES;
    this.#entries = Math.min(this.#pagesLeft(), room);
    this.iova = iovaOf(low, high);
    return FETCH;
  }

  /** @returns false where the entry does not begin at a page */
  #page(low: number, high: number): boolean {
    if ((low & (this.#pageBytes - 1)) !== 0) return false;
    const length = Math.min(this.#left, this.#pageBytes);
    this.#segments.add(iovaOf(low, high), length);
    this.#left -= length;
    return true;
  }
}

const INVALID = Status.prpOffsetInvalid;
