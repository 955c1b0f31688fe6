import type { AccessSlot } from '../keys/key-slot.ts';

/** An address in guest-physical memory, in bytes; exact up to 2^53. */
export type Gpa = number & { readonly __unit: 'gpa' };

export function gpa(address: number): Gpa {
  if (!Number.isSafeInteger(address) || address < 0) {
    throw new RangeError(`expected a guest-physical address from 0 to 2^53, got ${address}`);
  }
  return address as Gpa;
}

/**
 * One run of a batch: bytes that lie together in guest-physical memory and go through one slot. Who
 * asks may keep it and use it again.
 */
export interface MemoryRun {
  address: Gpa;
  slot: AccessSlot;
  /** What is read into, or written from: `length` bytes from `start` on. */
  bytes: Uint8Array;
  start: number;
  length: number;
  /** Set by the memory: why the run failed, or undefined where it was done. */
  failure: MemoryError | undefined;
}

/**
 * Guest memory as the DMA side of the memory controller: an access goes through DRAM and the key of `slot`,
 * or through none. The three kinds (sealed, plain, guest-held) share this face.
 */
export interface GuestMemory {
  readonly mode: 'sealed' | 'plain';
  /** True where a device may do this access: the whole range lies in guest RAM. */
  permits(direction: 'read' | 'write', address: Gpa, length: number): boolean;
  /**
   * Whether an access through `slot` meets a page of the other kind: it goes through a key and the page is
   * shared, or it goes through none and the page is private. It is done all the same, and what it reads, or
   * leaves for those who access the page in its own way, is noise. Holds until the caller's turn ends.
   */
  crosses(slot: AccessSlot, address: Gpa, length: number): boolean;
  /** Reads `into.length` bytes. The range must be permitted. @throws MemoryError */
  read(address: Gpa, slot: AccessSlot, into: Uint8Array): void;
  /** Writes all of `from`. The range must be permitted. @throws MemoryError */
  write(address: Gpa, slot: AccessSlot, from: Uint8Array): void;
  /**
   * Reads the first `count` runs, which must be permitted. Each is done or fails by itself; they
   * have no order among each other, and all are over on return.
   */
  readBatch(runs: readonly MemoryRun[], count: number): void;
  /** As {@link readBatch}. Where two overlap, either may come last. */
  writeBatch(runs: readonly MemoryRun[], count: number): void;
}

/** Memory that did not answer: the controller is gone, or a coherent write found no moment. */
export class MemoryError extends Error {
  override readonly name = 'MemoryError';
}
