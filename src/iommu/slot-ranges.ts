import type { AccessSlot } from '../keys/key-slot.ts';
import type { HostDomain } from './host-domain.ts';
import { MAPPING_GRANULE } from './mapped-domain.ts';

/** Addresses of a guest; whole pages. */
export interface AddressRange {
  /** A multiple of 4096. */
  readonly start: number;
  /** A multiple of 4096. */
  readonly bytes: number;
}

/** And what data there goes through. */
export interface SlotRange extends AddressRange {
  readonly slot: AccessSlot;
  /** Of that slot, when it was named: DMA is refused once it has been destroyed and filled again. */
  readonly generation?: number | undefined;
}

/** No x86 has more physical address bits. */
export const SLOT_RANGES_END = 2 ** 52;
/** A list that somebody keeps by hand, and that is told whole of each function of a VM. */
export const SLOT_RANGES_MAX = 128;

/**
 * A translation table that leads every address to itself and says for each which key slot its data goes through:
 * for a function whose slot comes from the translation (patent claims 5 and 7) and whose guest knows of none
 * of it. Neighbours with the same slot are one range.
 *
 * A change takes all mappings away and makes them anew; as DMA is synchronous, none can come between.
 */
export class SlotRanges {
  readonly domain: HostDomain;
  #ranges: readonly SlotRange[];

  /**
   * Everything goes through one slot at first.
   * @param domain without mappings; it is this table's alone from here on
   */
  constructor(domain: HostDomain, slot: AccessSlot, generation?: number) {
    this.domain = domain;
    this.#ranges = [{ start: 0, bytes: SLOT_RANGES_END, slot, generation }];
    this.#map();
  }

  /** All addresses, in their order. */
  get ranges(): readonly SlotRange[] {
    return this.#ranges;
  }

  /**
   * Puts a range under a slot, whatever it was under. Holds from the next DMA on.
   * @throws RangeError where it is not of whole pages below 2^52, or there would be too many ranges
   */
  set(range: SlotRange): void {
    const { start, bytes } = range;
    const end = start + bytes;
    if (
      ![start, bytes].every((each) => Number.isSafeInteger(each) && each % MAPPING_GRANULE === 0) ||
      start < 0 ||
      bytes <= 0 ||
      end > SLOT_RANGES_END
    ) {
      throw new RangeError(
        `expected a range of whole ${MAPPING_GRANULE}-byte pages below 2^52, got ${bytes} bytes at ${start}`,
      );
    }
    const next = merged(
      this.#ranges.flatMap((one) => {
        const oneEnd = one.start + one.bytes;
        if (oneEnd <= start || one.start >= end) return [one];
        const before = { ...one, bytes: start - one.start };
        const after = { ...one, start: end, bytes: oneEnd - end };
        // The new one comes once, in the place of the first that it covers.
        const own = start >= one.start ? [range] : [];
        return [before, ...own, after].filter(({ bytes: left }) => left > 0);
      }),
    );
    if (next.length > SLOT_RANGES_MAX) {
      throw new RangeError(
        `expected at most ${SLOT_RANGES_MAX} ranges with slots of their own, got one more: ` +
          'bind the function to one slot, and begin anew',
      );
    }
    this.#ranges = next;
    this.domain.unmap(0, SLOT_RANGES_END);
    this.#map();
  }

  #map(): void {
    for (const range of this.#ranges) this.domain.map(range);
  }
}

function merged(ranges: readonly SlotRange[]): SlotRange[] {
  const result: SlotRange[] = [];
  for (const one of ranges) {
    const last = result.at(-1);
    if (last !== undefined && last.slot === one.slot && last.generation === one.generation) {
      result[result.length - 1] = { ...last, bytes: last.bytes + one.bytes };
    } else {
      result.push(one);
    }
  }
  return result;
}
