import type { KeySlot } from '../keys/key-slot.ts';
import type { Gpa } from '../memory/guest-memory.ts';
import type { Domain, Rights, Translation, TranslationFault } from './domain.ts';

const PAGE_BYTES = 4096;

interface Line {
  domain: number;
  page: number;
  frame: number;
  rights: Rights;
  slot: KeySlot | undefined;
}

/**
 * Cache of the domains' translations, a page a line, direct-mapped.
 *
 * Invariant: a line agrees with its domain, or was invalidated before whoever changed the domain
 * told the guest so. Nothing here notices a change by itself: as in hardware, invalidation is
 * explicit. Refusals are never cached (a mapping may appear without an invalidation).
 */
export class Iotlb {
  readonly #lines: (Line | undefined)[];
  #hits = 0;
  #misses = 0;

  /** @param lines how many translations are kept. */
  constructor(lines = 1024) {
    if (!Number.isInteger(lines) || lines < 1) {
      throw new RangeError(`expected a number of IOTLB lines from 1, got ${lines}`);
    }
    this.#lines = new Array<Line | undefined>(lines).fill(undefined);
  }

  get hits(): number {
    return this.#hits;
  }

  get misses(): number {
    return this.#misses;
  }

  /** As {@link Domain.translate}, for at most the page that `iova` lies in. */
  translate(domain: Domain, iova: number, into: Translation): TranslationFault | undefined {
    const page = Math.floor(iova / PAGE_BYTES);
    const offset = iova - page * PAGE_BYTES;
    const index = (page + domain.id * 31) % this.#lines.length;
    const line = this.#lines[index];
    if (line !== undefined && line.page === page && line.domain === domain.id) {
      this.#hits++;
      into.address = (line.frame + offset) as Gpa;
      into.length = PAGE_BYTES - offset;
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
      const { rights, slot } = into;
      this.#lines[index] = { domain: domain.id, page, frame: into.address - offset, rights, slot };
      into.length = PAGE_BYTES - offset;
    }
    return undefined;
  }

  /** Forgets what a domain said of `length` bytes from `iova` on. */
  invalidate(domain: Domain, iova: number, length: number): void {
    const first = Math.floor(iova / PAGE_BYTES);
    const last = Math.floor((iova + length - 1) / PAGE_BYTES);
    if (last - first >= this.#lines.length) {
      this.invalidateDomain(domain);
      return;
    }
    for (let page = first; page <= last; page++) {
      const index = (page + domain.id * 31) % this.#lines.length;
      const line = this.#lines[index];
      if (line?.domain === domain.id && line.page === page) this.#lines[index] = undefined;
    }
  }

  /** Forgets all that a domain said. */
  invalidateDomain(domain: Domain): void {
    for (const [index, line] of this.#lines.entries()) {
      if (line?.domain === domain.id) this.#lines[index] = undefined;
    }
  }

  invalidateAll(): void {
    this.#lines.fill(undefined);
  }
}
