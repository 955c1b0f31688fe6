import { copyFromAddress, explicitBzero } from '../../ffi/libc.ts';
import { IN_CLEAR } from '../../keys/key-slot.ts';
import type { SlotKeys } from '../../keys/key-table.ts';
import type { VmId } from '../../keys/vm-id.ts';
import { Becomes, type DmaGate, GateOutcome } from '../dma-gate.ts';
import { EACCES, EAGAIN, EIO } from '../fuse/errno.ts';
import type { Dram } from './dram.ts';

const PAGE_BYTES = 4096;

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
  /** Pages that were made shared or private. */
  convertedPages: number;
  /** Accesses refused because their slot's key may not be used. */
  slotRefusals: number;
}

/** The key table, as far as an access needs it. */
export interface KeySource {
  /** The keys of a slot that serves that VM, else undefined. */
  keysFor(slot: number, vm: VmId): SlotKeys | undefined;
}

/**
 * One VM's RAM: the CPU's port (cache fills and write-backs, each page as it is held: under the VM's own
 * slot, or in the clear) and the DMA port (under the slot that the IOMMU resolved, or under none), both onto
 * the same DRAM. See shared-pages.ts.
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
    convertedPages: 0,
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
    const keys = this.#ownKeys;
    const sharing = this.dram.sharing(offset, bytes);
    if (keys === undefined && sharing !== 'all') return this.#refuse(EIO);
    this.#gate.filled(offset, bytes);
    if (keys !== undefined && sharing === 'none') this.dram.read(keys, offset, bytes, into);
    else this.#readAsHeld(keys, offset, bytes, into);
    this.counters.fills++;
    this.counters.filledPages += Math.ceil(bytes / PAGE_BYTES);
    return bytes;
  }

  writeBack(offset: number, length: number, from: number): number {
    if (offset + length > this.bytes) return -EIO;
    const keys = this.#ownKeys;
    const sharing = this.dram.sharing(offset, length);
    if (keys === undefined && sharing !== 'all') return this.#refuse(EIO);
    if (keys !== undefined && sharing === 'none') this.dram.write(keys, offset, length, from);
    else this.#writeAsHeld(keys, offset, length, from);
    this.counters.writeBacks++;
    this.counters.writtenBackPages += Math.ceil(length / PAGE_BYTES);
    return length;
  }

  dmaRead(offset: number, length: number, into: number): number {
    const entry = this.#gate.find(offset, length);
    if (entry < 0 || offset + length > this.bytes) return -EIO;
    const becomes = this.#gate.becomes(entry);
    if (becomes !== Becomes.same) {
      explicitBzero(into, length);
      return this.#convert(entry, becomes, offset, length, true);
    }
    const slot = this.#gate.slot(entry);
    if (slot === IN_CLEAR) {
      this.dram.readClear(offset, length, into);
    } else {
      const keys = this.#keys.keysFor(slot, this.vm);
      if (keys === undefined) return this.#refuseDma(entry);
      this.dram.read(keys, offset, length, into);
    }
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
    const keys = this.#ownKeys;
    if (keys === undefined) return this.#refuse(EIO);
    const mask = new Uint8Array(1);
    copyFromAddress(mask, from);
    this.dram.flip(keys, offset, mask[0] ?? 0);
    this.counters.flips++;
    return length;
  }

  #dmaWrite(entry: number, offset: number, length: number, from: number): number {
    if (offset + length > this.bytes) return -EIO;
    const becomes = this.#gate.becomes(entry);
    const slot = this.#gate.slot(entry);
    const clear = slot === IN_CLEAR;
    const keys = clear ? this.#ownKeys : this.#keys.keysFor(slot, this.vm);
    // Without a key there is no writing to private pages in the clear: some may be new (Dram.writeClear).
    const needsKeys =
      becomes === Becomes.same && !(clear && this.dram.sharing(offset, length) === 'all');
    if (keys === undefined && needsKeys) return this.#refuseDma(entry);
    if (!this.#gate.undisturbed(entry, offset, length)) {
      this.counters.dmaRetries++;
      this.#gate.settle(entry, GateOutcome.refilled);
      return -EAGAIN;
    }
    if (becomes !== Becomes.same) return this.#convert(entry, becomes, offset, length, false);
    if (clear || keys === undefined) this.dram.writeClear(keys, offset, length, from);
    else this.dram.write(keys, offset, length, from);
    this.counters.dmaWrites++;
    this.#gate.settle(entry, GateOutcome.done);
    return length;
  }

  /** Whole pages, whose content is kept, or discarded for zeros. */
  #convert(entry: number, becomes: number, offset: number, length: number, keep: boolean): number {
    if (offset % PAGE_BYTES !== 0 || length % PAGE_BYTES !== 0) return -EIO;
    const keys = keep ? this.#ownKeys : undefined;
    if (keep && keys === undefined) return this.#refuseDma(entry);
    const first = offset / PAGE_BYTES;
    const after = first + length / PAGE_BYTES;
    if (becomes === Becomes.shared) this.dram.share(keys, first, after);
    else this.dram.unshare(keys, first, after);
    this.counters.convertedPages += after - first;
    this.#gate.settle(entry, GateOutcome.done);
    return length;
  }

  #readAsHeld(keys: SlotKeys | undefined, offset: number, length: number, into: number): void {
    const { dram } = this;
    dram.runs(offset, length, (shared, at, bytes) => {
      const target = into + (at - offset);
      if (shared || keys === undefined) dram.readClear(at, bytes, target);
      else dram.read(keys, at, bytes, target);
    });
  }

  #writeAsHeld(keys: SlotKeys | undefined, offset: number, length: number, from: number): void {
    const { dram } = this;
    dram.runs(offset, length, (shared, at, bytes) => {
      const source = from + (at - offset);
      if (shared || keys === undefined) dram.writeClear(undefined, at, bytes, source);
      else dram.write(keys, at, bytes, source);
    });
  }

  /** Of the slot that the CPU's port goes through, where that serves. */
  get #ownKeys(): SlotKeys | undefined {
    return this.#keys.keysFor(this.#cpuSlot, this.vm);
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
