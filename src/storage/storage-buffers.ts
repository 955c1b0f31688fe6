/**
 * Memory for requests: one private mapping outside V8's heap, cut into chunks of 2 MiB, each of which
 * serves one size (4 KiB to 2 MiB, powers of two) for as long as a buffer of it is out. Taking and
 * giving are O(1), and allocate nothing once each chunk has served its sizes: the views are kept.
 *
 * The mapping ends when the last view of it is collected, never by a call: whoever still holds a buffer
 * (a request that the kernel is filling) holds the memory as well. Children do not inherit it
 * (MADV_DONTFORK: a fork would make its pages copy-on-write), and no core dump has it.
 */
import {
  MADV_DONTDUMP,
  MADV_DONTFORK,
  MAP_ANONYMOUS,
  MAP_NORESERVE,
  MAP_PRIVATE,
  madvise,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../ffi/libc.ts';
import type { StorageBuffers } from './block-storage.ts';

const SMALLEST_BITS = 12;
const CHUNK_BITS = 21;
const CLASSES = CHUNK_BITS - SMALLEST_BITS + 1;
const DEFAULT_BYTES = 64 << 20;

export const STORAGE_BUFFER_BYTES_MAX = 1 << CHUNK_BITS;

const NONE = -1;
/** The list of chunks of which nothing is out; the other lists are by size, of chunks that have room. */
const EMPTY = CLASSES;

const addresses = new WeakMap<ArrayBufferLike, number>();
const mappings = new FinalizationRegistry<{ address: number; length: number }>((mapping) => {
  munmap(mapping.address, mapping.length);
});

let lastArena: ArrayBufferLike | undefined;
let lastAddress = 0;

/**
 * A new zeroed mapping, `length` a multiple of the page size. It lasts as long as a view of it.
 * @throws SystemError (ENOMEM)
 */
export function mapMemory(length: number): Uint8Array<ArrayBuffer> {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const address = mmap(0, length, PROT_READ | PROT_WRITE, flags);
  madvise(address, length, MADV_DONTFORK);
  madvise(address, length, MADV_DONTDUMP);
  const view = viewOfAddress(address, length);
  addresses.set(view.buffer, address);
  mappings.register(view.buffer, { address, length });
  return view;
}

/** The native address of memory that {@link mapMemory} gave, or part of it; undefined of any other. */
export function addressOf(bytes: Uint8Array): number | undefined {
  if (bytes.buffer !== lastArena) {
    const address = addresses.get(bytes.buffer);
    if (address === undefined) return undefined;
    // One that is remembered here is never collected: one arena at most, and it is in use.
    lastArena = bytes.buffer;
    lastAddress = address;
  }
  return lastAddress + bytes.byteOffset;
}

class Chunk {
  /** Views of this chunk by class, made when it first serves that class. */
  readonly #views: (Uint8Array[] | undefined)[] = new Array(CLASSES);
  readonly #base: Uint8Array;
  /** A stack of those that were given back; behind {@link #fresh}, none has been out yet. */
  readonly #free = new Uint16Array(1 << (CHUNK_BITS - SMALLEST_BITS));
  readonly #out = new Uint8Array(1 << (CHUNK_BITS - SMALLEST_BITS));
  #freeCount = 0;
  #fresh = 0;
  sizeClass = NONE;
  previous = NONE;
  next = NONE;

  constructor(base: Uint8Array) {
    this.#base = base;
  }

  get #count(): number {
    return 1 << (CLASSES - 1 - this.sizeClass);
  }

  get full(): boolean {
    return this.#freeCount === 0 && this.#fresh === this.#count;
  }

  get empty(): boolean {
    return this.#freeCount === this.#fresh;
  }

  /** Nothing of it is out. */
  serve(sizeClass: number): void {
    if (this.sizeClass === sizeClass) return;
    this.sizeClass = sizeClass;
    this.#freeCount = 0;
    this.#fresh = 0;
    const size = 1 << (SMALLEST_BITS + sizeClass);
    this.#views[sizeClass] ??= Array.from({ length: this.#count }, (_, index) =>
      this.#base.subarray(index * size, (index + 1) * size),
    );
  }

  /** Not {@link full}. */
  take(): Uint8Array {
    const index = this.#freeCount > 0 ? (this.#free[--this.#freeCount] as number) : this.#fresh++;
    this.#out[index] = 1;
    return this.#views[this.sizeClass]?.[index] as Uint8Array;
  }

  /** @returns false where this is no buffer that is out. */
  give(buffer: Uint8Array, offset: number): boolean {
    const index = offset >> (SMALLEST_BITS + this.sizeClass);
    if (this.#views[this.sizeClass]?.[index] !== buffer || this.#out[index] === 0) return false;
    this.#out[index] = 0;
    this.#free[this.#freeCount++] = index;
    return true;
  }
}

export class StorageBufferPool implements StorageBuffers {
  readonly bytes: number;
  readonly #arena: ArrayBuffer;
  readonly #chunks: Chunk[];
  /** Heads of doubly linked lists of chunks: one for each class, and {@link EMPTY}. */
  readonly #heads = new Int32Array(CLASSES + 1).fill(NONE);
  #out = 0;

  /** @param bytes a multiple of 2 MiB: all that can ever be out. @throws SystemError (ENOMEM) */
  constructor(bytes = DEFAULT_BYTES) {
    const size = STORAGE_BUFFER_BYTES_MAX;
    if (!Number.isInteger(bytes / size) || bytes <= 0) {
      throw new RangeError(
        `expected a multiple of ${size} bytes for storage buffers, got ${bytes}`,
      );
    }
    this.bytes = bytes;
    const all = mapMemory(bytes);
    this.#arena = all.buffer;
    this.#chunks = Array.from(
      { length: bytes / size },
      (_, index) => new Chunk(all.subarray(index * size, (index + 1) * size)),
    );
    for (let index = this.#chunks.length - 1; index >= 0; index--) this.#link(EMPTY, index);
  }

  /** Buffers that are out. */
  get taken(): number {
    return this.#out;
  }

  /**
   * At least `bytes` long, with whatever it held before. @returns undefined where the pool is used up.
   * @throws RangeError of a length that no buffer has
   */
  take(bytes: number): Uint8Array | undefined {
    if (!(bytes > 0 && bytes <= STORAGE_BUFFER_BYTES_MAX)) {
      throw new RangeError(`expected 1 to ${STORAGE_BUFFER_BYTES_MAX} bytes, got ${bytes}`);
    }
    const wanted = Math.max(0, 32 - Math.clz32(Math.ceil(bytes) - 1) - SMALLEST_BITS);
    let list = wanted;
    if (this.#heads[list] === NONE && this.#heads[EMPTY] !== NONE) list = EMPTY;
    // No chunk for this size: a larger buffer than needed is better than none.
    while (list < EMPTY && this.#heads[list] === NONE) list++;
    const index = this.#heads[list] as number;
    const chunk = this.#chunks[index];
    if (chunk === undefined) return undefined;
    if (list === EMPTY) {
      this.#unlink(EMPTY, index);
      chunk.serve(wanted);
      this.#link(wanted, index);
    }
    const buffer = chunk.take();
    if (chunk.full) this.#unlink(chunk.sizeClass, index);
    this.#out++;
    return buffer;
  }

  /** @throws RangeError of anything but a buffer that was taken and not yet given back */
  give(buffer: Uint8Array): void {
    const index = Math.floor(buffer.byteOffset / STORAGE_BUFFER_BYTES_MAX);
    const chunk = buffer.buffer === this.#arena ? this.#chunks[index] : undefined;
    const wasFull = chunk?.full;
    if (chunk?.give(buffer, buffer.byteOffset & (STORAGE_BUFFER_BYTES_MAX - 1)) !== true) {
      throw new RangeError(
        `expected a buffer that is taken, got ${buffer.length} bytes that are none`,
      );
    }
    this.#out--;
    if (wasFull) this.#link(chunk.sizeClass, index);
    if (chunk.empty) {
      this.#unlink(chunk.sizeClass, index);
      this.#link(EMPTY, index);
    }
  }

  #link(list: number, index: number): void {
    const chunk = this.#chunks[index] as Chunk;
    const head = this.#heads[list] as number;
    chunk.previous = NONE;
    chunk.next = head;
    const next = this.#chunks[head];
    if (next !== undefined) next.previous = index;
    this.#heads[list] = index;
  }

  #unlink(list: number, index: number): void {
    const chunk = this.#chunks[index] as Chunk;
    const previous = this.#chunks[chunk.previous];
    const next = this.#chunks[chunk.next];
    if (previous === undefined) this.#heads[list] = chunk.next;
    else previous.next = chunk.next;
    if (next !== undefined) next.previous = chunk.previous;
  }
}
