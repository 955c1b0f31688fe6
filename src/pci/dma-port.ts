import type { RequesterId } from './requester-id.ts';

/**
 * An address as a device uses it: what the guest's driver wrote into a register or a descriptor.
 * Registers of 64 bits hold a bigint, hot paths a number; above 2^53 only a bigint is exact, and
 * no address there ever translates.
 */
export type Iova = number | bigint;

export type DmaDirection = 'read' | 'write';

/**
 * Why the IOMMU refused; one reason a fault record. `memory-failed` is none of its refusals: memory did
 * not answer, or found no moment, and a write of several pages may be there in part. Nor are the last two: an
 * access that went through a key and met a shared page, or went through none and met a private one, is done,
 * with noise for data.
 */
export type FaultReason =
  | 'no-device-table-entry'
  | 'blocked-domain'
  | 'bus-master-disabled'
  | 'unmapped'
  | 'no-read-permission'
  | 'no-write-permission'
  | 'slot-empty'
  | 'slot-not-active'
  | 'slot-of-another-vm'
  | 'slot-of-another-generation'
  | 'no-slot-in-translation'
  | 'unasked-slot-in-translation'
  | 'outside-memory'
  | 'memory-failed'
  | 'page-is-shared'
  | 'page-is-private';

/** One access of a batch; a device may keep it and use it again. */
export interface DmaAccess {
  iova: Iova;
  /** What is read into, or written from. */
  bytes: Uint8Array;
  /** Set by the port: the refusal, or undefined where the access was done. */
  abort: DmaAbort | undefined;
}

/**
 * The one way from a device to guest memory. A port belongs to one function: the requester ID is
 * the function's, never an argument. A refused access discloses no byte, alters no byte, leaves one
 * fault record, and throws {@link DmaAbort} (the completer abort a real function would see).
 *
 * An access may start at any byte and have any length from 1 to {@link maxBytes}. It is refused
 * as a whole or done as a whole, unless memory itself fails under it (`memory-failed`).
 */
export interface DmaPort {
  readonly rid: RequesterId;
  /** The longest access in bytes; longer ones throw RangeError: split them. */
  readonly maxBytes: number;
  /** Reads `into.length` bytes at `iova` into `into`, without allocating. @throws DmaAbort */
  readInto(iova: Iova, into: Uint8Array): void;
  /** Writes all of `from` to `iova`, without allocating. @throws DmaAbort */
  writeFrom(iova: Iova, from: Uint8Array): void;
  /**
   * Does the first `count` accesses, each as {@link readInto} would, and answers how many were
   * refused. Each is done or refused by itself, with a fault record of its own, and no refusal
   * throws. They have no order among each other; all of them are over on return. Where memory is
   * sealed this costs far less than as many single accesses.
   */
  readBatch(accesses: readonly DmaAccess[], count: number): number;
  /** As {@link readBatch}, with {@link writeFrom}. Where two overlap, either may come last. */
  writeBatch(accesses: readonly DmaAccess[], count: number): number;
  /** Like {@link readInto}, into a new array. @throws DmaAbort (the promise rejects) */
  read(iova: Iova, length: number): Promise<Uint8Array>;
  /** Like {@link writeFrom}. @throws DmaAbort (the promise rejects) */
  write(iova: Iova, bytes: Uint8Array): Promise<void>;
  /**
   * What an awaited access has to wait for before it is made, undefined where there is nothing. The
   * function looks whether a reset has come meanwhile. Absent: accesses take no time.
   */
  latency?(direction: DmaDirection, iova: Iova, length: number): Promise<void> | undefined;
}

/** A DMA that was refused. Carries what the device may know: never data, never a key slot. */
export class DmaAbort extends Error {
  override readonly name = 'DmaAbort';
  readonly direction: DmaDirection;
  readonly iova: Iova;
  readonly length: number;
  readonly reason: FaultReason;

  constructor(direction: DmaDirection, iova: Iova, length: number, reason: FaultReason) {
    super(`DMA ${direction} of ${length} bytes at 0x${iova.toString(16)} was refused: ${reason}`);
    this.direction = direction;
    this.iova = iova;
    this.length = length;
    this.reason = reason;
  }
}
