import type { DmaAbort } from '../pci/dma-port.ts';
import type { ChainBuffers, Segment } from './descriptors.ts';
import { iovaPlus } from './iova.ts';
import type { SplitRing } from './split-ring.ts';
import type { Chain } from './virtqueue.ts';

/** Longest read or write at once: a driver's lengths must not decide what we allocate. */
const BYTES_MAX = 16 * 1024 * 1024;
/** Writes up to this long are copied and wait for the publication; longer ones go out at once. */
const REPLY_BYTES_MAX = 4096;
/** What may wait in a ring; beyond, all of it is written. */
const WAITING_BYTES_MAX = 256 * 1024;
const WAITING_ACCESSES_MAX = 1024;

/**
 * A chain that was taken out of a ring. A new object each time: code that holds one from before a
 * reset must find that out, also where the driver uses the same head again.
 */
export class RingChain implements Chain {
  readonly head: number;
  readonly readable: number;
  readonly writable: number;
  readonly ring: SplitRing;
  /** Put back already. */
  back = false;
  readonly #segments: readonly Segment[];
  readonly #readers: number;
  #written = 0;
  /** The first device-readable bytes, where they were fetched ahead; and whether that was refused. */
  #ahead: Uint8Array | undefined;
  #aheadAbort: DmaAbort | undefined;
  /** One past the last writable byte that waits in the ring's replies. */
  #waitingTo = 0;

  constructor(ring: SplitRing, buffers: ChainBuffers) {
    this.ring = ring;
    this.head = buffers.head;
    this.readable = buffers.readable;
    this.writable = buffers.writable;
    this.#segments = buffers.segments;
    this.#readers = buffers.readers;
  }

  get written(): number {
    return this.#written;
  }

  /** Fetches the first bytes of several chains of one ring in one batch. */
  static prefetch(chains: readonly RingChain[], bytes: number): void {
    const [first] = chains;
    if (first === undefined || bytes === 0) return;
    for (const chain of chains) {
      const length = Math.min(bytes, chain.readable);
      if (length === 0) continue;
      chain.#ahead = new Uint8Array(length);
      chain.#gather(0, chain.#readers, 0, chain.#ahead);
    }
    const { transfers, dma } = first.ring;
    if (transfers.count === 0 || transfers.read(dma) === undefined) return;
    // Rare: find out whose it was, each by itself, so that the others are not hurt.
    for (const chain of chains) {
      if (chain.#ahead === undefined) continue;
      chain.#gather(0, chain.#readers, 0, chain.#ahead);
      chain.#aheadAbort = transfers.read(dma);
    }
  }

  read(at = 0, length = this.readable - at): Uint8Array {
    // Before anything is allocated: the lengths are the driver's.
    this.#check('readable', this.readable, at, length);
    const into = new Uint8Array(length);
    this.readInto(into, at);
    return into;
  }

  readInto(into: Uint8Array, at = 0): void {
    this.#check('readable', this.readable, at, into.length);
    if (into.length === 0) return;
    const ahead = this.#ahead;
    if (ahead !== undefined && at + into.length <= ahead.length) {
      if (this.#aheadAbort !== undefined) throw this.#aheadAbort;
      into.set(ahead.subarray(at, at + into.length));
      return;
    }
    this.#gather(0, this.#readers, at, into);
    const abort = this.ring.transfers.read(this.ring.dma);
    if (abort !== undefined) {
      into.fill(0);
      throw abort;
    }
  }

  write(bytes: Uint8Array, at = this.#written): void {
    this.#check('writable', this.writable, at, bytes.length);
    const { ring } = this;
    const { replies } = ring;
    const short = bytes.length <= REPLY_BYTES_MAX;
    // Accesses of one batch have no order: what may lie over waiting bytes comes after them.
    if (!short || at < this.#waitingTo) ring.writeReplies();
    if (short) {
      this.#gather(this.#readers, this.#segments.length, at, bytes.slice(), replies);
      this.#waitingTo = at + bytes.length;
      if (replies.bytes > WAITING_BYTES_MAX || replies.count > WAITING_ACCESSES_MAX) {
        ring.writeReplies();
      }
    } else {
      this.#gather(this.#readers, this.#segments.length, at, bytes);
      const abort = ring.transfers.write(ring.dma);
      if (abort !== undefined) throw abort;
    }
    this.#written = Math.max(this.#written, at + bytes.length);
  }

  /** Adds accesses for `bytes` at offset `at` of the segments `from` to `end`. */
  #gather(
    from: number,
    end: number,
    at: number,
    bytes: Uint8Array,
    into = this.ring.transfers,
  ): void {
    const { dma } = this.ring;
    let skip = at;
    let done = 0;
    for (let n = from; n < end && done < bytes.length; n++) {
      const { iova, length } = this.#segments[n] as Segment;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const part = Math.min(length - skip, bytes.length - done);
      into.add(dma, iovaPlus(iova, skip), bytes.subarray(done, done + part));
      done += part;
      skip = 0;
    }
  }

  #check(part: string, size: number, at: number, length: number): void {
    if (this.ring.ended !== undefined) throw this.ring.ended;
    if (this.back) throw new Error('expected a chain that is in flight, got one that was put back');
    const whole = Number.isSafeInteger(at) && Number.isSafeInteger(length);
    if (!whole || at < 0 || length < 0 || at + length > size) {
      throw new RangeError(
        `expected bytes inside the ${size} ${part} ones of the chain, got ${length} at ${at}`,
      );
    }
    if (length > BYTES_MAX) {
      throw new RangeError(`expected at most ${BYTES_MAX} bytes at once, got ${length}`);
    }
  }
}
