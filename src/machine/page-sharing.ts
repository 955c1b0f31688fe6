/** Which pages of a VM are shared, and how they become so: docs/isolation.md, "Private and shared pages". */
import type { KeySlot } from '../keys/key-slot.ts';
import type { VmId } from '../keys/vm-id.ts';
import {
  ConversionError,
  type ConversionOptions,
  type PageRange,
} from '../memory/page-conversion.ts';
import { SealedMemory } from '../memory/sealed-memory.ts';
import type { Machine } from './machine.ts';

/** Pages of a VM that have become shared, or private. */
export interface PageConversion {
  readonly vm: VmId;
  /** The VM's own, under which its private pages are. */
  readonly slot: KeySlot;
  readonly to: 'shared' | 'private';
  readonly range: PageRange;
  /** With their content; else they are zeros. */
  readonly kept: boolean;
}

/** What of a VM is shared now. */
export interface SharedRanges {
  /** All of it, also where no VMM says now at which addresses the guest has it. */
  readonly bytes: number;
  /** In the order of their addresses. They neither overlap nor adjoin. */
  readonly ranges: readonly PageRange[];
  /** Whether there are more of them. */
  readonly more: boolean;
}

export class PageSharing {
  readonly #machine: Machine;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /**
   * Makes a range of pages shared or private. Where RAM is was said by the VMM to each of the VM's functions: any
   * of them that was told of the range will do, for all have the same pages. What was converted is told on the
   * platform, also where a conversion stopped on its way.
   * @throws as Machine.share
   */
  async convert(
    to: 'share' | 'unshare',
    { address, bytes }: PageRange,
    options: ConversionOptions,
  ): Promise<void> {
    const memory = this.#memoryWith({ address, bytes });
    try {
      await memory[to](address, bytes, options);
      this.#tell(to, { address, bytes }, options);
    } catch (error) {
      if (error instanceof ConversionError && error.converted > 0) {
        this.#tell(to, { address, bytes: error.converted }, options);
      }
      throw error;
    }
  }

  /** @param most so many ranges, the first ones */
  shared(most: number): SharedRanges {
    const { functions, sealed } = this.#machine;
    const found: PageRange[] = [];
    for (const { memory } of functions) {
      if (!(memory instanceof SealedMemory)) continue;
      let taken = 0;
      for (const range of memory.sharedRanges()) {
        found.push(range);
        if (++taken > most) break;
      }
    }
    const ranges = joined(found);
    return {
      bytes: sealed?.sharedBytes ?? 0,
      ranges: ranges.slice(0, most),
      more: ranges.length > most,
    };
  }

  #memoryWith({ address, bytes }: PageRange): SealedMemory {
    for (const { memory } of this.#machine.functions) {
      if (!(memory instanceof SealedMemory)) {
        throw new Error(
          'expected sealed memory, got plain, which has no private pages: make the machine with memory sealed',
        );
      }
      if (memory.permits('read', address, bytes)) return memory;
    }
    throw new RangeError(
      `expected a range of guest RAM, got ${bytes} bytes at 0x${address.toString(16)}: boot the guest or ` +
        'connect a VMM first, which says where RAM is',
    );
  }

  #tell(to: 'share' | 'unshare', range: PageRange, { keep }: ConversionOptions): void {
    const { vm, slot, platform } = this.#machine;
    const kind = to === 'share' ? 'shared' : 'private';
    platform.conversions.tell({ vm, slot, to: kind, range, kept: keep });
  }
}

/** Functions are told of RAM each by itself, and nearly always of the same. */
function joined(ranges: PageRange[]): PageRange[] {
  const all: PageRange[] = [];
  for (const range of ranges.sort((one, other) => one.address - other.address)) {
    const last = all.at(-1);
    if (last === undefined || range.address > last.address + last.bytes) {
      all.push(range);
      continue;
    }
    const end = Math.max(last.address + last.bytes, range.address + range.bytes);
    all[all.length - 1] = { address: last.address, bytes: end - last.address };
  }
  return all;
}
