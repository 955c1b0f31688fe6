import { type AccessSlot, isInClear } from '../keys/key-slot.ts';
import type { Gpa, MemoryRun } from '../memory/guest-memory.ts';
import type { DmaAccess, FaultReason } from '../pci/dma-port.ts';

const NO_BYTES = new Uint8Array(0);

/**
 * A run of an access's bytes that lies together in guest-physical memory and goes through one slot. A port keeps
 * its segments and uses them again, so that no access makes one.
 */
export interface DmaSegment extends MemoryRun {
  /** As in DmaPiece. */
  crosses: boolean;
  /** Whose bytes these are, in a batch. */
  access: DmaAccess | undefined;
}

export function newSegment(address: Gpa, slot: AccessSlot, length: number): DmaSegment {
  return {
    ...{ address, slot, length, crosses: false },
    ...{ bytes: NO_BYTES, start: 0, failure: undefined, access: undefined },
  };
}

/** The segments from `first` up to `end` are those of `bytes`, in order. */
export function assignBytes(
  segments: readonly DmaSegment[],
  bytes: Uint8Array,
  first: number,
  end: number,
  access: DmaAccess | undefined,
): void {
  let start = 0;
  for (let i = first; i < end; i++) {
    const segment = segments[i] as DmaSegment;
    segment.bytes = bytes;
    segment.start = start;
    segment.access = access;
    start += segment.length;
  }
}

/** A segment is kept; the array that went through it is the device's. */
export function releaseBytes(segment: DmaSegment): void {
  segment.bytes = NO_BYTES;
  segment.access = undefined;
  segment.failure = undefined;
}

/** What the record says of a segment that met pages of the other kind. */
export function crossingReason({ slot }: DmaSegment): FaultReason {
  return isInClear(slot) ? 'page-is-private' : 'page-is-shared';
}
