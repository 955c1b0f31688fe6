import type { AccessSlot } from '../keys/key-slot.ts';
import { type Gpa, gpa } from '../memory/guest-memory.ts';
import type { Domain, Rights, Translation, TranslationFault } from './domain.ts';
import type { Iotlb } from './iotlb.ts';
import { MappedDomain } from './mapped-domain.ts';
import type { Mapping } from './mapping-tree.ts';

/** A run of addresses, as the host maps it. */
export interface HostMapping {
  /** Its first IOVA; a multiple of 4096. */
  readonly start: number;
  /** A multiple of 4096. */
  readonly bytes: number;
  /** Where `start` leads; unless given, to the same address. */
  readonly address?: Gpa;
  /** `read-write` unless given. */
  readonly rights?: Rights;
  /**
   * What its data goes through, for functions whose slot comes from the translation. IN_CLEAR: through no key,
   * for shared pages, wherever a function's slot comes from.
   */
  readonly slot?: AccessSlot | undefined;
  /** Of that slot, now: DMA is refused once it has been destroyed and filled again. Unless given, it is not. */
  readonly generation?: number | undefined;
}

/**
 * A translation table that the host makes, and not the guest: each entry may name the key slot, which comes
 * back with the translation (patent claims 5 and 7). So one function can have ranges of memory under
 * several slots of its VM, and several functions can share a table and its slots.
 *
 * Whatever changes is forgotten in the IOTLB before the call returns, and holds from the next DMA on.
 */
export class HostDomain implements Domain {
  readonly id: number;
  readonly cacheable = true;
  readonly #iotlb: Iotlb;
  readonly #mapped: MappedDomain;

  constructor(id: number, iotlb: Iotlb) {
    this.id = id;
    this.#iotlb = iotlb;
    this.#mapped = new MappedDomain(id);
  }

  /** In the order of their addresses. */
  mappings(): Iterable<Mapping> {
    return this.#mapped.mappings();
  }

  /** @throws RangeError where it is not of whole pages, or overlaps one that is there */
  map(mapping: HostMapping): void {
    const { start, bytes, address = gpa(start), rights = 'read-write', slot, generation } = mapping;
    const end = start + bytes - 1;
    if (this.#mapped.map({ start, end, address, rights, mmio: false, slot, generation })) return;
    throw new RangeError(
      `expected a free range of IOVA, got ${range(start, end)}, which is mapped in part: unmap that first`,
    );
  }

  /** @throws RangeError where it has a part of a mapping only */
  unmap(start: number, bytes: number): void {
    const end = start + bytes - 1;
    if (this.#mapped.unmap(start, end) === 'would-split') {
      throw new RangeError(`expected whole mappings, got ${range(start, end)}, which cuts one`);
    }
    this.#iotlb.invalidate(this, start, bytes);
  }

  /**
   * Puts another slot, or none, in the place of what the mappings in a range name; its generation as in
   * {@link map}. @throws as {@link unmap}
   */
  setSlot(
    start: number,
    bytes: number,
    slot: AccessSlot | undefined,
    generation?: number | undefined,
  ): void {
    const inside = [...this.#mapped.mappings()].filter(
      (mapping) => mapping.start >= start && mapping.end < start + bytes,
    );
    this.unmap(start, bytes);
    for (const mapping of inside) this.#mapped.map({ ...mapping, slot, generation });
  }

  translate(iova: number, into: Translation): TranslationFault | undefined {
    return this.#mapped.translate(iova, into);
  }
}

function range(start: number, end: number): string {
  return `0x${start.toString(16)} to 0x${end.toString(16)}`;
}
