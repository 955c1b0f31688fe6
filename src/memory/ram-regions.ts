import type { Gpa } from './guest-memory.ts';

/**
 * A range of guest-physical memory that the VMM lends to a device.
 * @typeParam Backing where its bytes are.
 */
export interface RamRegion<Backing> {
  readonly gpa: Gpa;
  /** Bytes. */
  readonly size: number;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly backing: Backing;
}

/** libvfio-user keeps at most 16; the bound here is for other transports. */
export const RAM_REGIONS_MAX = 1024;

/**
 * The regions of one function, by address. They never overlap, and an access may run over several that
 * follow each other without a gap.
 */
export class RamRegions<Backing> {
  /** In the order of their addresses. */
  readonly #regions: RamRegion<Backing>[] = [];
  /** The region that answered last: nearly always the next one as well. */
  #last: RamRegion<Backing> | undefined;

  /** In the order of their addresses. */
  get all(): readonly RamRegion<Backing>[] {
    return this.#regions;
  }

  /** @throws RangeError where it overlaps one, or there are too many. */
  add(region: RamRegion<Backing>): void {
    const { gpa, size } = region;
    if (!Number.isSafeInteger(size) || size <= 0 || !Number.isSafeInteger(gpa + size)) {
      throw new RangeError(`expected a region below 2^53, got ${size} bytes at ${gpa}`);
    }
    if (this.#regions.length >= RAM_REGIONS_MAX) {
      throw new RangeError(`expected at most ${RAM_REGIONS_MAX} regions, got one more`);
    }
    const at = this.#regions.findIndex((other) => other.gpa >= gpa);
    const index = at < 0 ? this.#regions.length : at;
    const before = this.#regions[index - 1];
    const after = this.#regions[index];
    if (
      (before !== undefined && before.gpa + before.size > gpa) ||
      (after !== undefined && gpa + size > after.gpa)
    ) {
      throw new RangeError(
        `expected a region that overlaps no other, got ${size} bytes at 0x${gpa.toString(16)}`,
      );
    }
    this.#regions.splice(index, 0, region);
  }

  /** Takes out the region that begins at `gpa` and has `size` bytes. @returns whether it was there. */
  remove(gpa: number, size: number): boolean {
    const index = this.#regions.findIndex((region) => region.gpa === gpa && region.size === size);
    if (index < 0) return false;
    this.#regions.splice(index, 1);
    this.#last = undefined;
    return true;
  }

  clear(): void {
    this.#regions.length = 0;
    this.#last = undefined;
  }

  /** The region that holds the byte at `address`. */
  find(address: number): RamRegion<Backing> | undefined {
    const last = this.#last;
    if (last !== undefined && address >= last.gpa && address < last.gpa + last.size) return last;
    let low = 0;
    let high = this.#regions.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const region = this.#regions[middle] as RamRegion<Backing>;
      if (address >= region.gpa + region.size) low = middle + 1;
      else high = middle;
    }
    const region = this.#regions[low];
    if (region === undefined || address < region.gpa) return undefined;
    this.#last = region;
    return region;
  }

  /** Whether all of the range is in regions that allow the direction. */
  permits(direction: 'read' | 'write', address: number, length: number): boolean {
    const end = address + length;
    for (let at = address; at < end; ) {
      const region = this.find(at);
      if (region === undefined) return false;
      if (!(direction === 'read' ? region.readable : region.writable)) return false;
      at = region.gpa + region.size;
    }
    return true;
  }
}
