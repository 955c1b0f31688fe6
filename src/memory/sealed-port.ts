import { pread, pwrite } from '../ffi/file-io.ts';
import { SystemError } from '../ffi/system-error.ts';
import { type AccessSlot, IN_CLEAR } from '../keys/key-slot.ts';
import { Becomes, type DmaGate, GateOutcome } from './dma-gate.ts';
import { DroppedPages } from './dropped-pages.ts';
import { EAGAIN } from './fuse/errno.ts';
import { MemoryError } from './guest-memory.ts';
import { ConversionOrder } from './page-conversion.ts';
import { SharedPages } from './shared-pages.ts';

/** Bytes of one request: well under the 256 pages of a FUSE message, so that one is never split. */
export const CHUNK_BYTES = 256 * 1024;
/**
 * How often a write may meet a refill. Two vCPUs that did nothing but store to the page took up to 178
 * tries of about 100 µs; far beyond that something is wrong, and the device gets a fault.
 */
const WRITE_TRIES_MAX = 20_000;
/** How long a write may hold up the event loop, whatever the tries take. */
export const WRITE_MS_MAX = 2000;
/**
 * The more pages, the more likely that one of them is filled meanwhile: after so many tries a longer
 * write goes on page by page.
 */
const CHUNK_TRIES_MAX = 64;
const PAGE_BYTES = 4096;

/**
 * The DMA port of one RAM file, by offset in that file: O_DIRECT reads and writes that the
 * controller answers out of DRAM; see dma-gate.ts. One request at a time; sealed-batch.ts has many.
 */
export class SealedPort {
  readonly gate: DmaGate;
  readonly dropped: DroppedPages;
  readonly shared: SharedPages;
  readonly conversions = new ConversionOrder();
  /** Size of the RAM file. */
  readonly bytes: number;
  readonly #descriptor: () => number;
  #lost: string | undefined;

  /** @param descriptor the RAM file, opened with O_DIRECT; throws MemoryError once it is closed. */
  constructor(descriptor: () => number, gate: DmaGate, bytes: number) {
    this.#descriptor = descriptor;
    this.gate = gate;
    this.dropped = new DroppedPages(gate.fills);
    this.shared = new SharedPages(bytes);
    this.bytes = bytes;
  }

  /** @throws MemoryError where it is closed or was given up */
  get fd(): number {
    if (this.#lost !== undefined) throw new MemoryError(this.#lost);
    return this.#descriptor();
  }

  /**
   * Fails every access from here on: requests are under way that nobody waits for any more, and they must
   * find no entry of the gate.
   */
  giveUp(why: string): void {
    this.#lost = why;
    this.gate.open(0);
  }

  get givenUp(): boolean {
    return this.#lost !== undefined;
  }

  /** Reads at most {@link CHUNK_BYTES}. @throws MemoryError */
  read(offset: number, slot: AccessSlot, into: Uint8Array): void {
    this.#read(offset, slot, into, Becomes.same);
  }

  #read(offset: number, slot: AccessSlot, into: Uint8Array, becomes: Becomes): void {
    const { fd, gate } = this;
    gate.ask(0, slot, offset, into.length, becomes);
    gate.open(1);
    let read: number;
    try {
      read = pread(fd, into, offset);
    } catch (error) {
      throw this.failure(0, error);
    } finally {
      gate.open(0);
    }
    // A short read would have been topped up out of the page cache, past the slot's key.
    if (read !== into.length || gate.outcome(0) !== GateOutcome.done) {
      throw this.failure(0, undefined);
    }
  }

  /**
   * Writes at most {@link CHUNK_BYTES}, in as many tries as it takes until `deadline` (of
   * performance.now). @throws MemoryError
   */
  write(offset: number, slot: AccessSlot, from: Uint8Array, deadline: number): void {
    this.#write(offset, slot, from, deadline, Becomes.same);
  }

  /**
   * Makes whole pages shared or private, at most {@link CHUNK_BYTES} of them.
   * @param keep their content; else they are zeros. @throws MemoryError, and then some may be converted
   */
  convert(offset: number, length: number, becomes: Becomes, keep: boolean): void {
    const bytes = new Uint8Array(length);
    if (keep) {
      this.#read(offset, IN_CLEAR, bytes, becomes);
      this.shared.set(offset, length, becomes === Becomes.shared);
    } else {
      this.#write(offset, IN_CLEAR, bytes, performance.now() + WRITE_MS_MAX, becomes);
    }
  }

  #write(
    offset: number,
    slot: AccessSlot,
    from: Uint8Array,
    deadline: number,
    becomes: Becomes,
  ): void {
    if (this.#tryWrite(offset, slot, from, becomes, CHUNK_TRIES_MAX, deadline)) return;
    for (let done = 0; done < from.length; ) {
      const inPage = PAGE_BYTES - ((offset + done) % PAGE_BYTES);
      const part = from.subarray(done, done + inPage);
      if (!this.#tryWrite(offset + done, slot, part, becomes, WRITE_TRIES_MAX, deadline)) {
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
    offset: number,
    slot: AccessSlot,
    part: Uint8Array,
    becomes: Becomes,
    tries: number,
    deadline: number,
  ): boolean {
    const { fd, gate, dropped } = this;
    for (let done = 0; done < tries; done++) {
      if (done > 0 && performance.now() > deadline) return false;
      dropped.forget(offset, part.length);
      gate.ask(0, slot, offset, part.length, becomes);
      gate.open(1);
      const result = pwrite(fd, part, offset);
      gate.open(0);
      const outcome = gate.outcome(0);
      if (result === part.length && outcome === GateOutcome.done) {
        dropped.note(offset, part.length, gate.expected(0));
        if (becomes !== Becomes.same) {
          this.shared.set(offset, part.length, becomes === Becomes.shared);
        }
        return true;
      }
      if (!mayTryAgain(result, part.length, outcome)) {
        throw this.failure(0, result < 0 ? new SystemError('pwrite', -result) : undefined);
      }
    }
    return false;
  }

  /** The words for an access that failed as entry `index` of the gate. */
  failure(index: number, error: unknown): MemoryError {
    if (this.gate.outcome(index) === GateOutcome.slotRefused) {
      return new MemoryError('expected a key slot that this memory may use, got another');
    }
    const got = error instanceof Error ? error.message : 'an answer that was cut short';
    return new MemoryError(`expected the memory controller to answer, got ${got}`);
  }
}

/**
 * Whether a write that is not done may be tried again. `result` is a count of bytes, or minus an errno: it
 * met a refill, or it went through the page cache, under the key of the CPU's port.
 */
export function mayTryAgain(result: number, length: number, outcome: number): boolean {
  return result === -EAGAIN || (result === length && outcome === GateOutcome.none);
}
