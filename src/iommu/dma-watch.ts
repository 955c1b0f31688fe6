/**
 * Two places where others may stand in the way of a DMA: who looks (a trace) and who spoils (faults on
 * demand). Where nobody stands an access pays one comparison for each.
 */
import type { AccessSlot, KeySlot } from '../keys/key-slot.ts';
import type { Gpa } from '../memory/guest-memory.ts';
import type { DmaDirection, FaultReason, Iova } from '../pci/dma-port.ts';
import type { RequesterId } from '../pci/requester-id.ts';

/** A run of a DMA's bytes that lay together in guest-physical memory and went through one slot. */
export interface DmaPiece {
  readonly address: Gpa;
  /** Bytes. */
  readonly length: number;
  readonly slot: AccessSlot;
  /** It met pages of the other kind: shared ones through a key, or private ones in the clear. */
  readonly crosses: boolean;
}

/** What a DMA was. Arrays hold until the observer returns. */
export interface DmaDone {
  readonly rid: RequesterId;
  readonly direction: DmaDirection;
  readonly iova: Iova;
  /** What the device read or wrote: plaintext. */
  readonly bytes: Uint8Array;
  /** Its pieces are those from `first` up to `end`, in the order of its bytes. */
  readonly pieces: readonly DmaPiece[];
  readonly first: number;
  readonly end: number;
}

/** Sees each DMA that was done, once its last byte has moved; refused ones are in the fault log. */
export interface DmaObserver {
  done(dma: DmaDone): void;
}

/** Spoils DMA. What it asks for is then done and recorded as if the IOMMU had found it so. */
export interface DmaTamper {
  /** Why the access is to be refused; undefined lets it pass. Asked once an access, before all checks. */
  refusal(
    rid: RequesterId,
    direction: DmaDirection,
    iova: Iova,
    length: number,
  ): FaultReason | undefined;
  /** The slot to use in place of `slot`, which the IOMMU resolved. Asked for each translation that is under one. */
  slot(rid: RequesterId, direction: DmaDirection, iova: Iova, slot: KeySlot): KeySlot;
}
