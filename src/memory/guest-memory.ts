import type { KeySlot } from '../keys/key-slot.ts';

/** An address in guest-physical memory, in bytes; exact up to 2^53. */
export type Gpa = number & { readonly __unit: 'gpa' };

export function gpa(address: number): Gpa {
  if (!Number.isSafeInteger(address) || address < 0) {
    throw new RangeError(`expected a guest-physical address from 0 to 2^53, got ${address}`);
  }
  return address as Gpa;
}

/**
 * Guest memory as the DMA side of the memory controller: an access to a private page goes through
 * DRAM and the key of `slot`. The three kinds (sealed, plain, guest-held) share this face.
 */
export interface GuestMemory {
  readonly mode: 'sealed' | 'plain';
  /** True where a device may do this access: the whole range lies in guest RAM. */
  permits(direction: 'read' | 'write', address: Gpa, length: number): boolean;
  /** Reads `into.length` bytes. The range must be permitted. @throws MemoryError */
  read(address: Gpa, slot: KeySlot, into: Uint8Array): void;
  /** Writes all of `from`. The range must be permitted. @throws MemoryError */
  write(address: Gpa, slot: KeySlot, from: Uint8Array): void;
}

/** Memory that did not answer: the controller is gone, or a coherent write found no moment. */
export class MemoryError extends Error {
  override readonly name = 'MemoryError';
}
