import type { Gpa } from '../memory/guest-memory.ts';
import { type ConversionOptions, SealedMemory } from '../memory/sealed-memory.ts';
import type { PluggedFunction } from './machine.ts';

/** Whole pages of guest RAM, as the guest has them. */
export interface PageRange {
  /** Of its first byte; a multiple of 4096. */
  readonly address: Gpa;
  /** A multiple of 4096. */
  readonly bytes: number;
}

/**
 * Makes a range of a VM's pages shared or private. Where RAM is was said by the VMM to each of the VM's functions:
 * any of them that was told of the range will do, for all have the same pages.
 * @throws as Machine.share
 */
export async function convertPages(
  functions: readonly PluggedFunction[],
  to: 'share' | 'unshare',
  { address, bytes }: PageRange,
  options: ConversionOptions,
): Promise<void> {
  for (const { memory } of functions) {
    if (!(memory instanceof SealedMemory)) {
      throw new Error(
        'expected sealed memory, got plain, which has no private pages: make the machine with memory sealed',
      );
    }
    if (memory.permits('read', address, bytes)) return await memory[to](address, bytes, options);
  }
  throw new RangeError(
    `expected a range of guest RAM, got ${bytes} bytes at 0x${address.toString(16)}: boot the guest or ` +
      'connect a VMM first, which says where RAM is',
  );
}
