/**
 * Requests that memory can answer: done on the spot, by this thread, in one or two microseconds where
 * a thread of the kernel takes forty. What decides is whether the call could wait for a disk.
 *
 * - **Reads** of pages that are in the page cache. cachestat(2) (Linux 6.5) tells; RWF_NOWAIT makes the
 *   read give up if one has gone since, or is still being filled. A tmpfs refuses RWF_NOWAIT, but it can
 *   wait only for swap, and cachestat counts the pages that are swapped out. Where cachestat is not to
 *   be had (older kernels; a file that the caller could not write, which the kernel will not tell of),
 *   a tmpfs is left to the engine, and elsewhere RWF_NOWAIT decides alone: of a page that is not
 *   there it starts the read-ahead before it gives up, for some microseconds.
 * - **Writes** to a tmpfs, of pages that are there (none has to be found, no quota asked), while no
 *   other change of ours is under way, since a long one of those holds the inode's lock. Elsewhere a
 *   write may wait for the journal or for write-back at any time, and never happens here.
 * - **Flushes** of a tmpfs, which is memory: the kernel's fsync of it does nothing.
 *
 * Short or refused: the engine does the whole request again.
 */
import {
  cachedPages,
  dataSync,
  evictedPages,
  pagesOf,
  RWF_DSYNC,
  RWF_NOWAIT,
  readWithFlags,
  writeWithFlags,
} from '../ffi/page-cache.ts';
import type { BackingFile } from './backing-file.ts';
import { addressOf, mapMemory } from './storage-buffers.ts';

/** Longer ones are copied by a thread of the kernel, while the event loop goes on. */
export const RESIDENT_BYTES_MAX = 128 * 1024;
/** Copied in one kick: with 4 KiB reads about half a millisecond. */
export const RESIDENT_BYTES_PER_KICK = 1024 * 1024;

export const NOTHING_AT_ONCE = 'none of it at once';

const PROBE_BYTES = 512;
const EOPNOTSUPP = 95;

export class ResidentIo {
  readonly #fd: number;
  readonly #tmpfs: boolean;
  readonly #cachestat: boolean;
  /** RWF_NOWAIT where the file system knows it. */
  readonly #nowait: boolean;

  constructor(file: BackingFile) {
    this.#fd = file.fd;
    this.#tmpfs = file.tmpfs;
    this.#cachestat = cachedPages(file.fd, 0, PROBE_BYTES) >= 0;
    const address = addressOf(mapMemory(4096)) ?? 0;
    // Where the first page is not there this says EAGAIN.
    const probed = readWithFlags(file.fd, address, PROBE_BYTES, 0, RWF_NOWAIT);
    this.#nowait = probed !== -EOPNOTSUPP;
  }

  /** For the log. */
  get description(): string {
    if (this.#tmpfs && this.#cachestat) return 'what is in memory at once';
    if (this.#nowait) return 'reads of what is cached at once';
    return NOTHING_AT_ONCE;
  }

  /** @returns whether all of it is read: else nothing is known of the bytes. */
  read(address: number, length: number, offset: number): boolean {
    if (length > RESIDENT_BYTES_MAX) return false;
    if (this.#tmpfs) {
      if (!this.#cachestat || evictedPages(this.#fd, offset, length) !== 0) return false;
      return readWithFlags(this.#fd, address, length, offset, 0) === length;
    }
    if (!this.#nowait) return false;
    if (this.#cachestat && cachedPages(this.#fd, offset, length) < pagesOf(offset, length)) {
      return false;
    }
    return readWithFlags(this.#fd, address, length, offset, RWF_NOWAIT) === length;
  }

  /** @returns whether all of it is written: else perhaps some. Not while another change is under way. */
  write(address: number, length: number, offset: number, durable: boolean): boolean {
    if (!this.#tmpfs || !this.#cachestat || length > RESIDENT_BYTES_MAX) return false;
    if (cachedPages(this.#fd, offset, length) < pagesOf(offset, length)) return false;
    const flags = durable ? RWF_DSYNC : 0;
    return writeWithFlags(this.#fd, address, length, offset, flags) === length;
  }

  flush(): boolean {
    return this.#tmpfs && dataSync(this.#fd) === 0;
  }
}
