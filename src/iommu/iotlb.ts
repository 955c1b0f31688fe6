import type { AccessSlot } from '../keys/key-slot.ts';
import type { Gpa } from '../memory/guest-memory.ts';
import type { Domain, Rights, Translation, TranslationFault } from './domain.ts';

const PAGE_BYTES = 4096;
/** The domain of an empty line: IDs count from 1. */
const EMPTY = 0;

/**
 * Cache of the domains' translations, direct-mapped by page. A line stands for a page and for what
 * comes after it in the same mapping, so that a long access takes one look-up a mapping and not one
 * a page.
 *
 * Invariant: a line agrees with its domain, or was invalidated before whoever changed the domain
 * told the guest so. Nothing here notices a change by itself: as in hardware, invalidation is
 * explicit. Refusals are never cached (a mapping may appear without an invalidation).
 */
export class Iotlb {
  readonly #lines: number;
  // A column an array: invalidation runs through three of them, and filling a line allocates nothing.
  readonly #domain: Float64Array;
  /** The page's first address, and the last one of the mapping that it lies in. */
  readonly #start: Float64Array;
  readonly #end: Float64Array;
  /** Where the page's first address leads. */
  readonly #address: Float64Array;
  readonly #rights: Rights[];
  readonly #slot: (AccessSlot | undefined)[];
  readonly #generation: (number | undefined)[];
  #hits = 0;
  #misses = 0;

  /** @param lines how many translations are kept. */
  constructor(lines = 1024) {
    if (!Number.isInteger(lines) || lines < 1) {
      throw new RangeError(`expected a number of IOTLB lines from 1, got ${lines}`);
    }
    this.#lines = lines;
    this.#domain = new Float64Array(lines);
    this.#start = new Float64Array(lines);
    this.#end = new Float64Array(lines);
    this.#address = new Float64Array(lines);
    this.#rights = new Array<Rights>(lines).fill('none');
    this.#slot = new Array<AccessSlot | undefined>(lines).fill(undefined);
    this.#generation = new Array<number | undefined>(lines).fill(undefined);
  }

  get hits(): number {
    return this.#hits;
  }

  get misses(): number {
    return this.#misses;
  }

  /** As {@link Domain.translate}. */
  translate(domain: Domain, iova: number, into: Translation): TranslationFault | undefined {
    const page = Math.floor(iova / PAGE_BYTES);
    const start = page * PAGE_BYTES;
    const offset = iova - start;
    const line = (page + domain.id * 31) % this.#lines;
    if (this.#domain[line] === domain.id && this.#start[line] === start) {
      this.#hits++;
      into.address = ((this.#address[line] as number) + offset) as Gpa;
      into.length = (this.#end[line] as number) - iova + 1;
      into.rights = this.#rights[line] as Rights;
      into.slot = this.#slot[line];
      into.generation = this.#generation[line];
      return undefined;
    }
    this.#misses++;
    const fault = domain.translate(iova, into);
    if (fault !== undefined) return fault;
    // A line stands for its whole page; an answer that ends inside the page breaks what
    // `cacheable` promises, and is not kept.
    if (into.length >= PAGE_BYTES - offset && into.address >= offset) {
      this.#domain[line] = domain.id;
      this.#start[line] = start;
      this.#end[line] = iova + into.length - 1;
      this.#address[line] = into.address - offset;
      this.#rights[line] = into.rights;
      this.#slot[line] = into.slot;
      this.#generation[line] = into.generation;
    }
    return undefined;
  }

  /**
   * Forgets what a domain said of `length` bytes from `iova` on. Looks at each line once, however
   * long the range: a line that starts before it may reach into it.
   */
  invalidate(domain: Domain, iova: number, length: number): void {
    const last = iova + length - 1;
    const { id } = domain;
    for (let line = 0; line < this.#lines; line++) {
      if (this.#domain[line] !== id) continue;
      if ((this.#start[line] as number) > last || (this.#end[line] as number) < iova) continue;
      this.#domain[line] = EMPTY;
    }
  }

  /** Forgets all that a domain said. */
  invalidateDomain(domain: Domain): void {
    this.invalidate(domain, 0, Number.MAX_SAFE_INTEGER);
  }

  invalidateAll(): void {
    this.#domain.fill(EMPTY);
  }
}
