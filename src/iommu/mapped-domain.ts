import type { Gpa } from '../memory/guest-memory.ts';
import type { Domain, Translation, TranslationFault } from './domain.ts';
import { type Mapping, MappingTree } from './mapping-tree.ts';

/** What the IOTLB keeps is a page at the least, so a mapping is whole pages. */
export const MAPPING_GRANULE = 4096;

/**
 * A domain whose mappings the guest makes and removes one by one. Mappings stay as they were made:
 * none overlaps another, and none is ever split or merged (virtio 1.2 §5.13.6.5 and §5.13.6.6).
 *
 * Whoever removes a mapping invalidates its range in the IOTLB before the guest hears of it.
 */
export class MappedDomain implements Domain {
  readonly id: number;
  readonly cacheable = true;
  readonly #tree = new MappingTree();

  constructor(id: number) {
    this.id = id;
  }

  /** How many there are. */
  get size(): number {
    return this.#tree.size;
  }

  /** In the order of their addresses. */
  mappings(): Iterable<Mapping> {
    return this.#tree;
  }

  /**
   * Adds a mapping, of addresses up to 2^53 that begin and end with a granule.
   * Answers false, with nothing changed, where it would overlap one that is there.
   * @throws RangeError where the addresses are not such
   */
  map(mapping: Mapping): boolean {
    const { start, end, address } = mapping;
    if (!isGranules(start, end, address)) {
      throw new RangeError(
        `expected a mapping of whole ${MAPPING_GRANULE}-byte pages below 2^53, got ` +
          `0x${start.toString(16)} to 0x${end.toString(16)} at 0x${address.toString(16)}`,
      );
    }
    if (this.#tree.within(start, end) !== undefined) return false;
    this.#tree.insert(mapping);
    return true;
  }

  /**
   * Removes every mapping that lies in `start` to `end`, inclusive; between them there may be gaps.
   * Answers how many they were, or 'would-split', with nothing changed, where the range holds a part
   * of a mapping only.
   */
  unmap(start: number, end: number): number | 'would-split' {
    const first = this.#tree.at(start);
    if (first !== undefined && first.start < start) return 'would-split';
    const last = this.#tree.at(end);
    if (last !== undefined && last.end > end) return 'would-split';
    return this.#tree.remove(start, end);
  }

  translate(iova: number, into: Translation): TranslationFault | undefined {
    const mapping = this.#tree.at(iova);
    if (mapping === undefined) return 'unmapped';
    into.address = (mapping.address + (iova - mapping.start)) as Gpa;
    into.length = mapping.end - iova + 1;
    into.rights = mapping.rights;
    into.slot = mapping.slot;
    into.generation = mapping.generation;
    return undefined;
  }
}

function isGranules(start: number, end: number, address: number): boolean {
  return (
    start >= 0 &&
    address >= 0 &&
    end > start &&
    end < Number.MAX_SAFE_INTEGER &&
    address + (end - start) < Number.MAX_SAFE_INTEGER &&
    start % MAPPING_GRANULE === 0 &&
    (end + 1) % MAPPING_GRANULE === 0 &&
    address % MAPPING_GRANULE === 0
  );
}
