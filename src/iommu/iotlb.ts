import { type KeySlot, keySlot } from '../keys/key-slot.ts';
import { type Gpa, gpa } from '../memory/guest-memory.ts';
import type { Domain, Rights, Translation, TranslationFault } from './domain.ts';

const PAGE_BYTES = 4096;

/**
 * What a domain said of a page, and of what comes after it: from the page's start to `end` (the
 * last address, inclusive) addresses lead to `address` and what follows it.
 */
interface Line {
  /** The domain's ID; 0 where the line is empty, for IDs count from 1. */
  domain: number;
  start: number;
  end: number;
  address: Gpa;
  rights: Rights;
  slot: KeySlot | undefined;
}

const EMPTY = 0;

/**
 * Cache of the domains' translations, direct-mapped by page. A line reaches to the end of the
 * mapping that it came from, so that a long access takes one look-up a mapping and not one a page.
 *
 * Invariant: a line agrees with its domain, or was invalidated before whoever changed the domain
 * told the guest so. Nothing here notices a change by itself: as in hardware, invalidation is
 * explicit. Refusals are never cached (a mapping may appear without an invalidation).
 */
export class Iotlb {
  readonly #lines: readonly Line[];
  #hits = 0;
  #misses = 0;

  /** @param lines how many translations are kept. */
  constructor(lines = 1024) {
    if (!Number.isInteger(lines) || lines < 1) {
      throw new RangeError(`expected a number of IOTLB lines from 1, got ${lines}`);
    }
    // All of them at once: filling one on a DMA's way allocates nothing.
    this.#lines = Array.from({ length: lines }, () => ({
      domain: EMPTY,
      start: 0,
      end: 0,
      address: gpa(0),
      rights: 'none',
      slot: keySlot(0),
    }));
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
    const line = this.#lines[(page + domain.id * 31) % this.#lines.length] as Line;
    if (line.domain === domain.id && line.start === start) {
      this.#hits++;
      into.address = (line.address + offset) as Gpa;
      into.length = line.end - iova + 1;
      into.rights = line.rights;
      into.slot = line.slot;
      return undefined;
    }
    this.#misses++;
    const fault = domain.translate(iova, into);
    if (fault !== undefined) return fault;
    // A line stands for its whole page; an answer that ends inside the page breaks what
    // `cacheable` promises, and is not kept.
    if (into.length >= PAGE_BYTES - offset && into.address >= offset) {
      line.domain = domain.id;
      line.start = start;
      line.end = iova + into.length - 1;
      line.address = (into.address - offset) as Gpa;
      line.rights = into.rights;
      line.slot = into.slot;
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
    for (const line of this.#lines) {
      if (line.domain === id && line.start <= last && line.end >= iova) line.domain = EMPTY;
    }
  }

  /** Forgets all that a domain said. */
  invalidateDomain(domain: Domain): void {
    this.invalidate(domain, 0, Number.MAX_SAFE_INTEGER);
  }

  invalidateAll(): void {
    for (const line of this.#lines) line.domain = EMPTY;
  }
}
