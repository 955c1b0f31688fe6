import { DmaAbort, type DmaPort, type Iova } from '../../pci/index.ts';

/** Where the buffer lies in the engine's own address space. A guest reaches it by DMA alone. */
export const BUFFER_START = 0x40000;
export const BUFFER_BYTES = 4096;

/** What the registers say when a transfer starts. */
export interface Transfer {
  readonly toRam: boolean;
  readonly source: bigint;
  readonly destination: bigint;
  /** Bytes. */
  readonly count: bigint;
}

/** A transfer that moved nothing, or not all. */
export interface Refusal extends Transfer {
  /** The specification has no error bit: a driver does not see why, the device's owner does. */
  readonly why: 'outside the buffer' | 'refused by the IOMMU';
}

/** What the engine has done since it was made. */
export interface DmaCounters {
  transfers: number;
  /** Transfers that were refused. */
  refused: number;
  /** RAM addresses that the mask cut, which a driver with a proper DMA mask never causes. */
  clamped: number;
}

/**
 * The DMA engine of edu: moves bytes between RAM and a buffer of 4096 bytes, with RAM addresses
 * cut to the mask.
 *
 * QEMU's edu aborts, or in newer versions runs over its buffer, where a transfer leaves the
 * buffer. This one moves nothing, records it, and completes as usual, so that a driver does not
 * wait for ever.
 */
export class DmaEngine {
  readonly buffer = new Uint8Array(BUFFER_BYTES);
  readonly counters: DmaCounters = { transfers: 0, refused: 0, clamped: 0 };
  lastRefusal: Refusal | undefined;
  readonly #mask: bigint;
  readonly #onTransfer: ((transfer: Transfer, bytes: Uint8Array) => void) | undefined;

  /** @throws RangeError where the mask is not of 1 to 64 bits. */
  constructor(mask: bigint, onTransfer?: (transfer: Transfer, bytes: Uint8Array) => void) {
    if (mask < 1n || BigInt.asUintN(64, mask) !== mask) {
      throw new RangeError(`expected a DMA mask of 1 to 64 bits, got 0x${mask.toString(16)}`);
    }
    this.#mask = mask;
    this.#onTransfer = onTransfer;
  }

  /** Does the transfer, in pieces that the port takes. */
  run(transfer: Transfer, dma: DmaPort): void {
    this.counters.transfers++;
    const start = (transfer.toRam ? transfer.source : transfer.destination) - BigInt(BUFFER_START);
    if (start < 0n || start + transfer.count > BigInt(BUFFER_BYTES)) {
      this.#refuse(transfer, 'outside the buffer');
      return;
    }
    const address = this.#clamp(transfer.toRam ? transfer.destination : transfer.source);
    const piece = this.buffer.subarray(Number(start), Number(start + transfer.count));
    try {
      for (let at = 0; at < piece.length; at += dma.maxBytes) {
        const bytes = piece.subarray(at, at + dma.maxBytes);
        const iova = toIova(address + BigInt(at));
        if (transfer.toRam) dma.writeFrom(iova, bytes);
        else dma.readInto(iova, bytes);
      }
    } catch (error) {
      if (!(error instanceof DmaAbort)) throw error;
      this.#refuse(transfer, 'refused by the IOMMU');
      return;
    }
    this.#onTransfer?.(transfer, piece);
  }

  reset(): void {
    this.buffer.fill(0);
  }

  #clamp(address: bigint): bigint {
    const clamped = address & this.#mask;
    if (clamped !== address) this.counters.clamped++;
    return clamped;
  }

  #refuse(transfer: Transfer, why: Refusal['why']): void {
    this.counters.refused++;
    this.lastRefusal = { ...transfer, why };
  }
}

function toIova(address: bigint): Iova {
  return address <= Number.MAX_SAFE_INTEGER ? Number(address) : address;
}
