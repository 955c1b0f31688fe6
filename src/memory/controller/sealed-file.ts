import { copyFromAddress } from '../../ffi/libc.ts';
import type { SlotKeys } from '../../keys/key-table.ts';
import type { VmId } from '../../keys/vm-id.ts';
import type { DmaGate } from '../dma-gate.ts';
import { GateOutcome } from '../dma-gate.ts';
import { EACCES, EAGAIN, EIO } from '../fuse/errno.ts';
import type { Dram } from './dram.ts';

/** What one VM's memory did, for doctor, benchmarks and tests. */
export interface SealedFileCounters {
  /** Cache fills: READs for the page cache, and their pages. */
  fills: number;
  filledPages: number;
  /** Write-backs of the page cache, and their pages. */
  writeBacks: number;
  writtenBackPages: number;
  dmaReads: number;
  dmaWrites: number;
  /** Messages of many DMA writes to pages out of the cache; the writes count as dmaWrites. */
  dmaScatters: number;
  /** DMA writes that met a refill and were told to try again. */
  dmaRetries: number;
  /** Bits of DRAM that were flipped on demand. */
  flips: number;
  /** Accesses refused because their slot's key may not be used. */
  slotRefusals: number;
}

/** The key table, as far as an access needs it. */
export interface KeySource {
  /** The keys of a slot that serves that VM, else undefined. */
  keysFor(slot: number, vm: VmId): SlotKeys | undefined;
}

/**
 * One VM's RAM: the CPU's port (cache fills and write-backs under the VM's own slot) and the DMA
 * port (under the slot that the IOMMU resolved), both onto the same DRAM.
 * Results are a count of bytes, or minus an errno.
 */
export class SealedFile {
  readonly vm: VmId;
  readonly bytes: number;
  readonly counters: SealedFileCounters = {
    fills: 0,
    filledPages: 0,
    writeBacks: 0,
    writtenBackPages: 0,
    dmaReads: 0,
    dmaWrites: 0,
    dmaScatters: 0,
    dmaRetries: 0,
    flips: 0,
    slotRefusals: 0,
  };
  readonly dram: Dram;
  readonly #gate: DmaGate;
  readonly #keys: KeySource;
  readonly #cpuSlot: number;

  constructor(vm: VmId, cpuSlot: number, dram: Dram, gate: DmaGate, keys: KeySource) {
    this.vm = vm;
    this.bytes = dram.bytes;
    this.#cpuSlot = cpuSlot;
    this.dram = dram;
    this.#gate = gate;
    this.#keys = keys;
  }

  get writtenPages(): number {
    return this.dram.writtenPages;
  }

  /** A cache fill. Counted before it is answered: see dma-gate.ts. */
  fill(offset: number, length: number, into: number): number {
    const bytes = Math.min(length, this.bytes - offset);
    if (bytes <= 0) return 0;
    const keys = this.#keys.keysFor(this.#cpuSlot, this.vm);
    if (keys === undefined) return this.#refuse(EIO);
    this.#gate.filled(offset, bytes);
    this.dram.read(keys, offset, bytes, into);
    this.counters.fills++;
    this.counters.filledPages += Math.ceil(bytes / 4096);
    return bytes;
  }

  writeBack(offset: number, length: number, from: number): number {
    if (offset + length > this.bytes) return -EIO;
    const keys = this.#keys.keysFor(this.#cpuSlot, this.vm);
    if (keys === undefined) return this.#refuse(EIO);
    this.dram.write(keys, offset, length, from);
    this.counters.writeBacks++;
    this.counters.writtenBackPages += Math.ceil(length / 4096);
    return length;
  }

  dmaRead(offset: number, length: number, into: number): number {
    const entry = this.#gate.find(offset, length);
    if (entry < 0 || offset + length > this.bytes) return -EIO;
    const keys = this.#keys.keysFor(this.#gate.slot(entry), this.vm);
    if (keys === undefined) return this.#refuseDma(entry);
    this.dram.read(keys, offset, length, into);
    this.counters.dmaReads++;
    this.#gate.settle(entry, GateOutcome.done);
    return length;
  }

  dmaWrite(offset: number, length: number, from: number): number {
    const entry = this.#gate.find(offset, length);
    return entry < 0 ? -EIO : this.#dmaWrite(entry, offset, length, from);
  }

  /**
   * Every entry of the gate, a write whose bytes are in the message from its place on: the pages are
   * out of the cache, or it is `refilled` (dma-gate.ts). What became of each is in its outcome.
   */
  dmaScatter(length: number, from: number): number {
    const gate = this.#gate;
    const { count } = gate;
    for (let entry = 0; entry < count; entry++) {
      const bytes = gate.length(entry);
      const place = gate.place(entry);
      if (bytes < 1 || place + bytes > length) return -EIO;
      this.#dmaWrite(entry, gate.offset(entry), bytes, from + place);
    }
    this.counters.dmaScatters++;
    return length;
  }

  /** Flips the bits that are set in the one byte at `from`, in the byte of DRAM at `offset`. */
  flip(offset: number, length: number, from: number): number {
    if (length !== 1 || offset >= this.bytes) return -EIO;
    const keys = this.#keys.keysFor(this.#cpuSlot, this.vm);
    if (keys === undefined) return this.#refuse(EIO);
    const mask = new Uint8Array(1);
    copyFromAddress(mask, from);
    this.dram.flip(keys, offset, mask[0] ?? 0);
    this.counters.flips++;
    return length;
  }

  #dmaWrite(entry: number, offset: number, length: number, from: number): number {
    if (offset + length > this.bytes) return -EIO;
    const keys = this.#keys.keysFor(this.#gate.slot(entry), this.vm);
    if (keys === undefined) return this.#refuseDma(entry);
    if (!this.#gate.undisturbed(entry, offset, length)) {
      this.counters.dmaRetries++;
      this.#gate.settle(entry, GateOutcome.refilled);
      return -EAGAIN;
    }
    this.dram.write(keys, offset, length, from);
    this.counters.dmaWrites++;
    this.#gate.settle(entry, GateOutcome.done);
    return length;
  }

  #refuseDma(entry: number): number {
    this.#gate.settle(entry, GateOutcome.slotRefused);
    return this.#refuse(EACCES);
  }

  #refuse(errno: number): number {
    this.counters.slotRefusals++;
    return -errno;
  }
}
