import {
  MADV_DONTDUMP,
  MADV_DONTFORK,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  madvise,
  mmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../ffi/libc.ts';

/** Bytes that one go of a batch can carry. */
export const ARENA_BYTES = 1024 * 1024;
const PAGE_BYTES = 4096;
/** Small requests share a page, each on cache lines of its own. */
const LINE_BYTES = 64;

/**
 * Where the bytes of a batch stand while its requests are under way: memory outside V8's heap that the
 * kernel reads and fills. Places are taken one behind the other, and given back all at once.
 */
export class DmaArena {
  readonly address: number;
  readonly bytes: Buffer<ArrayBuffer>;
  #used = 0;

  constructor() {
    this.address = mmap(0, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    // A child would get copies of the pages that the kernel is writing to; a dump guest memory.
    madvise(this.address, ARENA_BYTES, MADV_DONTFORK);
    madvise(this.address, ARENA_BYTES, MADV_DONTDUMP);
    this.bytes = Buffer.from(viewOfAddress(this.address, ARENA_BYTES).buffer);
  }

  /** Whether a new request of so many bytes fits. */
  hasRoomFor(length: number): boolean {
    return this.#placeFor(length) + length <= ARENA_BYTES;
  }

  /** Whether the request whose place was taken last can have so many bytes more. */
  canExtend(length: number): boolean {
    return this.#used + length <= ARENA_BYTES;
  }

  /** A place for a new request: no more pages than it needs. {@link hasRoomFor} said yes. */
  take(length: number): number {
    const place = this.#placeFor(length);
    this.#used = place + length;
    return place;
  }

  /** The next bytes of the request whose place was taken last. */
  extend(length: number): number {
    const place = this.#used;
    this.#used += length;
    return place;
  }

  /** Gives all places back. */
  clear(): void {
    this.#used = 0;
  }

  #placeFor(length: number): number {
    const used = this.#used;
    const line = used + ((LINE_BYTES - (used % LINE_BYTES)) % LINE_BYTES);
    const inPage = line % PAGE_BYTES;
    return inPage === 0 || inPage + length <= PAGE_BYTES ? line : line - inPage + PAGE_BYTES;
  }
}
