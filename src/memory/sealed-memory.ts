import { setImmediate as nextTurn } from 'node:timers/promises';
import { type AccessSlot, isInClear, type KeySlot } from '../keys/key-slot.ts';
import { Becomes } from './dma-gate.ts';
import { type Gpa, type GuestMemory, MemoryError, type MemoryRun } from './guest-memory.ts';
import { ConversionError, type ConversionOptions, type PageRange } from './page-conversion.ts';
import { RamRegions } from './ram-regions.ts';
import type { SealedBatch } from './sealed-batch.ts';
import { CHUNK_BYTES, type SealedPort, WRITE_MS_MAX } from './sealed-port.ts';

const PAGE_BYTES = 4096;

/** Which file a region must be backed by. */
export interface FileIdentity {
  readonly device: bigint;
  readonly inode: bigint;
}

/**
 * Sealed RAM from the DMA side: every byte goes through DRAM and the key of the slot that the IOMMU
 * resolved, in the controller. Coherent with the vCPUs; see dma-gate.ts for why.
 */
export class SealedMemory implements GuestMemory {
  readonly mode = 'sealed';
  /** A region's backing is the offset of its first byte in the RAM file. */
  readonly regions = new RamRegions<number>();
  readonly file: FileIdentity;
  /** Size of the RAM file. */
  readonly bytes: number;
  readonly #port: SealedPort;
  readonly #batch: SealedBatch;
  readonly #flip: (offset: number, mask: number) => void;

  /**
   * Memories of one RAM file share its port and its batch.
   * @param flip flips bits of a byte of ciphertext
   */
  constructor(
    port: SealedPort,
    batch: SealedBatch,
    file: FileIdentity,
    flip: (offset: number, mask: number) => void,
  ) {
    this.#port = port;
    this.#batch = batch;
    this.#flip = flip;
    this.file = file;
    this.bytes = port.bytes;
  }

  permits(direction: 'read' | 'write', address: Gpa, length: number): boolean {
    return this.regions.permits(direction, address, length);
  }

  crosses(slot: AccessSlot, address: Gpa, length: number): boolean {
    if (this.#port.shared.count === 0) return isInClear(slot);
    for (let done = 0; done < length; ) {
      const place = this.#place(address + done, length - done);
      if (this.#port.shared.crosses(slot, place.offset, place.length)) return true;
      done += place.length;
    }
    return false;
  }

  read(address: Gpa, slot: AccessSlot, into: Uint8Array): void {
    for (let done = 0; done < into.length; ) {
      const { offset, length } = this.#place(address + done, into.length - done);
      const part = length === into.length ? into : into.subarray(done, done + length);
      this.#port.read(offset, slot, part);
      done += length;
    }
  }

  write(address: Gpa, slot: AccessSlot, from: Uint8Array): void {
    const deadline = performance.now() + WRITE_MS_MAX;
    for (let done = 0; done < from.length; ) {
      const { offset, length } = this.#place(address + done, from.length - done);
      const part = length === from.length ? from : from.subarray(done, done + length);
      this.#port.write(offset, slot, part, deadline);
      done += length;
    }
  }

  /**
   * Makes whole pages shared: DRAM holds them in the clear. The VM's devices reach them without a key, its CPUs
   * as before. Goes on while the guest runs and devices do DMA, some pages at a time; see shared-pages.ts.
   * Conversions of one RAM file come one after the other.
   * @throws RangeError where the range is not of whole pages of guest RAM; ConversionError where it stopped, and
   *   then a first part of them may be converted
   */
  share(address: Gpa, length: number, { keep }: ConversionOptions): Promise<void> {
    return this.#convert(address, length, Becomes.shared, keep);
  }

  /** Makes whole pages private again: DRAM holds them under the VM's slot. As {@link share}. */
  unshare(address: Gpa, length: number, { keep }: ConversionOptions): Promise<void> {
    return this.#convert(address, length, Becomes.private, keep);
  }

  /** Runs of shared pages, in the order of their addresses: those that a region has a place for. */
  *sharedRanges(): Generator<PageRange> {
    let address: number | undefined;
    let bytes = 0;
    for (const { gpa, size, backing } of this.regions.all) {
      for (const run of this.#port.shared.runs(backing, size)) {
        const begin = gpa + (run.offset - backing);
        if (address !== undefined && address + bytes !== begin) {
          yield { address: address as Gpa, bytes };
          address = undefined;
        }
        if (address === undefined) [address, bytes] = [begin, 0];
        bytes += run.length;
      }
    }
    if (address !== undefined) yield { address: address as Gpa, bytes };
  }

  #convert(address: Gpa, length: number, becomes: Becomes, keep: boolean): Promise<void> {
    return this.#port.conversions.afterOthers(() =>
      this.#convertNow(address, length, becomes, keep),
    );
  }

  async #convertNow(address: Gpa, length: number, becomes: Becomes, keep: boolean): Promise<void> {
    const whole = length > 0 && address % PAGE_BYTES === 0 && length % PAGE_BYTES === 0;
    if (!whole || !this.permits('read', address, length)) {
      throw new RangeError(
        `expected whole pages of guest RAM, got ${length} bytes at 0x${address.toString(16)}: give a ` +
          'range of 4096-byte pages, once the VMM has said where RAM is',
      );
    }
    const { shared } = this.#port;
    for (let done = 0; done < length; ) {
      const before = shared.conversions;
      try {
        const place = this.#place(address + done, length - done);
        this.#port.convert(place.offset, place.length, becomes, keep);
        done += place.length;
      } catch (error) {
        if (!(error instanceof MemoryError)) throw error;
        const inPart = (shared.conversions - before) * PAGE_BYTES;
        throw new ConversionError(error, done + inPart, length);
      }
      if (done < length) await nextTurn();
    }
  }

  /**
   * Flips a bit (0 to 7) of the ciphertext of the byte at `address`, which must be permitted, as an error of
   * the memory cells does: whoever reads the 16 bytes around it out of DRAM finds noise. What CPUs
   * stored there until now is written back first, under the VM's own `slot`; what they have in their
   * cache they go on to find. @throws MemoryError
   */
  flipBit(address: Gpa, slot: KeySlot, bit: number): void {
    const { offset } = this.#place(address, 1);
    this.#port.read(offset, slot, new Uint8Array(1));
    this.#flip(offset, 1 << bit);
  }

  readBatch(runs: readonly MemoryRun[], count: number): void {
    this.#inBatch('read', runs, count);
  }

  writeBatch(runs: readonly MemoryRun[], count: number): void {
    this.#inBatch('write', runs, count);
  }

  #inBatch(direction: 'read' | 'write', runs: readonly MemoryRun[], count: number): void {
    this.#batch.begin();
    try {
      for (let i = 0; i < count; i++) {
        const run = runs[i] as MemoryRun;
        run.failure = undefined;
        this.#add(direction, run);
      }
      this.#batch.finish(direction);
    } finally {
      // Nothing is left, unless something broke: then it must not go with the next batch.
      this.#batch.discard();
    }
  }

  #add(direction: 'read' | 'write', run: MemoryRun): void {
    try {
      for (let done = 0; done < run.length; ) {
        const { offset, length } = this.#place(run.address + done, run.length - done);
        this.#batch.add(direction, run, run.start + done, offset, length);
        done += length;
      }
    } catch (error) {
      if (!(error instanceof MemoryError)) throw error;
      run.failure = error;
    }
  }

  /** The file's range for the first bytes of an access: inside one region, inside one chunk. */
  #place(address: number, wanted: number): { offset: number; length: number } {
    const region = this.regions.find(address);
    if (region === undefined) {
      throw new MemoryError(`expected an address in guest RAM, got 0x${address.toString(16)}`);
    }
    const inside = address - region.gpa;
    const offset = region.backing + inside;
    const length = Math.min(wanted, region.size - inside, CHUNK_BYTES - (offset % CHUNK_BYTES));
    if (offset + length > this.bytes) {
      throw new MemoryError(
        `expected a region inside the RAM file's ${this.bytes} bytes, got offset ${offset}`,
      );
    }
    return { offset, length };
  }
}
