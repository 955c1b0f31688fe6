import { pread, pwrite } from '../ffi/file-io.ts';
import { SystemError } from '../ffi/system-error.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import { type DmaGate, GateOutcome } from './dma-gate.ts';
import { EAGAIN } from './fuse/errno.ts';
import { type Gpa, type GuestMemory, MemoryError } from './guest-memory.ts';
import { RamRegions } from './ram-regions.ts';

/** Bytes of one request: well under the 256 pages of a FUSE message, so that one is never split. */
const CHUNK_BYTES = 256 * 1024;
/**
 * How often a write may meet a refill. Two vCPUs that did nothing but store to the page took up to 178
 * tries of about 100 µs; far beyond that something is wrong, and the device gets a fault.
 */
const WRITE_TRIES_MAX = 20_000;
/** How long a write may hold up the event loop, whatever the tries take. */
const WRITE_MS_MAX = 2000;
/**
 * The more pages, the more likely that one of them is filled meanwhile: after so many tries a longer
 * write goes on page by page.
 */
const CHUNK_TRIES_MAX = 64;
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
  readonly #descriptor: () => number;
  readonly #gate: DmaGate;
  /** Size of the RAM file. */
  readonly bytes: number;

  /** @param descriptor the RAM file, opened with O_DIRECT; throws MemoryError once it is closed. */
  constructor(descriptor: () => number, gate: DmaGate, file: FileIdentity, bytes: number) {
    this.#descriptor = descriptor;
    this.#gate = gate;
    this.file = file;
    this.bytes = bytes;
  }

  permits(direction: 'read' | 'write', address: Gpa, length: number): boolean {
    return this.regions.permits(direction, address, length);
  }

  read(address: Gpa, slot: KeySlot, into: Uint8Array): void {
    const fd = this.#descriptor();
    for (let done = 0; done < into.length; ) {
      const { offset, length } = this.#place(address + done, into.length - done);
      const part = length === into.length ? into : into.subarray(done, done + length);
      this.#gate.ask(slot, offset, length);
      let read: number;
      try {
        read = pread(fd, part, offset);
      } catch (error) {
        throw this.#failure(error);
      }
      // A short read would have been topped up out of the page cache, past the slot's key.
      if (read !== length || this.#gate.outcome !== GateOutcome.done)
        throw this.#failure(undefined);
      done += length;
    }
  }

  write(address: Gpa, slot: KeySlot, from: Uint8Array): void {
    const fd = this.#descriptor();
    const deadline = performance.now() + WRITE_MS_MAX;
    for (let done = 0; done < from.length; ) {
      const { offset, length } = this.#place(address + done, from.length - done);
      const part = length === from.length ? from : from.subarray(done, done + length);
      if (!this.#tryWrite(fd, slot, part, offset, { tries: CHUNK_TRIES_MAX, deadline })) {
        this.#writePages(fd, slot, part, offset, deadline);
      }
      done += length;
    }
  }

  #writePages(fd: number, slot: KeySlot, from: Uint8Array, offset: number, deadline: number): void {
    for (let done = 0; done < from.length; ) {
      const inPage = PAGE_BYTES - ((offset + done) % PAGE_BYTES);
      const part = from.subarray(done, done + inPage);
      const tries = WRITE_TRIES_MAX;
      if (!this.#tryWrite(fd, slot, part, offset + done, { tries, deadline })) {
        throw new MemoryError(
          `expected a moment without cache fills in ${part.length} bytes of guest memory, ` +
            `got none in ${WRITE_TRIES_MAX} tries or ${WRITE_MS_MAX} ms`,
        );
      }
      done += part.length;
    }
  }

  /** @returns false where each of the tries met a refill: then nothing is changed. */
  #tryWrite(
    fd: number,
    slot: KeySlot,
    part: Uint8Array,
    offset: number,
    bound: { readonly tries: number; readonly deadline: number },
  ): boolean {
    for (let tries = 0; tries < bound.tries; tries++) {
      if (tries > 0 && performance.now() > bound.deadline) return false;
      this.#gate.ask(slot, offset, part.length);
      const result = pwrite(fd, part, offset);
      if (result === part.length && this.#gate.outcome === GateOutcome.done) return true;
      // Written through the page cache, under the key of the CPU's port: do it again, past it.
      if (result === part.length && this.#gate.outcome === GateOutcome.none) continue;
      if (result !== -EAGAIN) {
        throw this.#failure(result < 0 ? new SystemError('pwrite', -result) : undefined);
      }
    }
    return false;
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

  #failure(error: unknown): MemoryError {
    if (this.#gate.outcome === GateOutcome.slotRefused) {
      return new MemoryError('expected a key slot that this memory may use, got another');
    }
    const got = error instanceof Error ? error.message : 'an answer that was cut short';
    return new MemoryError(`expected the memory controller to answer, got ${got}`);
  }
}
