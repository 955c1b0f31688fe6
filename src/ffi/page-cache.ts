/**
 * I/O that the page cache can answer at once: preadv2 and pwritev2 with their flags, fdatasync, and
 * cachestat(2), which tells whether it can; and how pages leave it. Buffers are addresses; nothing is allocated a
 * call.
 */
import koffi from 'koffi';
import { addressOfBytes, declared, type Native, SystemError } from './libc.ts';

export const RWF_DSYNC = 0x02;
export const RWF_NOWAIT = 0x08;

const SYS_CACHESTAT = 451;
const PAGE_BYTES = 4096;
const POSIX_FADV_DONTNEED = 4;
const HIGH = 0x1_0000_0000;

const preadNative = declared(
  'int64_t preadv2(int fd, uintptr_t vector, int count, int64_t offset, int flags)',
);
const pwriteNative = declared(
  'int64_t pwritev2(int fd, uintptr_t vector, int count, int64_t offset, int flags)',
);
const cachestatNative = declared(
  'long syscall(long number, long fd, uintptr_t range, uintptr_t stat, long flags)',
);
const fdatasyncNative = declared('int fdatasync(int fd)');
const fadviseNative = declared(
  'int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)',
);
let preadCall: Native | undefined;
let pwriteCall: Native | undefined;
let cachestatCall: Native | undefined;

// An ArrayBuffer of its own never moves: struct iovec at 0, cachestat_range at 16, cachestat at 32.
const scratch = new Uint8Array(new ArrayBuffer(128));
const words = new Uint32Array(scratch.buffer);
const at = addressOfBytes(scratch);

function setPair(word: number, first: number, second: number): void {
  words[word] = first;
  words[word + 1] = Math.floor(first / HIGH);
  words[word + 2] = second;
  words[word + 3] = Math.floor(second / HIGH);
}

/** preadv2(2) to an address. @returns bytes read, or minus the errno. */
export function readWithFlags(
  fd: number,
  address: number,
  length: number,
  offset: number,
  flags: number,
): number {
  preadCall ??= preadNative();
  setPair(0, address, length);
  const result = preadCall(fd, at, 1, offset, flags);
  return result < 0 ? -koffi.errno() : result;
}

/** pwritev2(2) from an address. @returns bytes written, or minus the errno. */
export function writeWithFlags(
  fd: number,
  address: number,
  length: number,
  offset: number,
  flags: number,
): number {
  pwriteCall ??= pwriteNative();
  setPair(0, address, length);
  const result = pwriteCall(fd, at, 1, offset, flags);
  return result < 0 ? -koffi.errno() : result;
}

/** fdatasync(2). @returns 0, or minus the errno. */
export function dataSync(fd: number): number {
  return fdatasyncNative()(fd) < 0 ? -koffi.errno() : 0;
}

/** posix_fadvise(2): clean pages of the range that nobody has mapped leave the page cache. @throws SystemError */
export function dropCached(fd: number, offset: number, length: number): void {
  const errno = fadviseNative()(fd, offset, length, POSIX_FADV_DONTNEED);
  if (errno !== 0) throw new SystemError('posix_fadvise', errno);
}

/**
 * cachestat(2), Linux 6.5. Of a tmpfs the evicted pages are those that are swapped out; a page that is
 * neither cached nor evicted is a hole.
 * @returns pages of the range that are in the page cache, or minus the errno (ENOSYS; EPERM where the
 * caller could not write the file; EOPNOTSUPP)
 */
export function cachedPages(fd: number, offset: number, length: number): number {
  const errno = cachestat(fd, offset, length);
  return errno < 0 ? errno : (words[8] ?? 0);
}

/** As {@link cachedPages}, but the pages that once were there and are not any more. */
export function evictedPages(fd: number, offset: number, length: number): number {
  const errno = cachestat(fd, offset, length);
  return errno < 0 ? errno : (words[14] ?? 0);
}

function cachestat(fd: number, offset: number, length: number): number {
  cachestatCall ??= cachestatNative();
  setPair(4, offset, length);
  const result = cachestatCall(SYS_CACHESTAT, fd, at + 16, at + 32, 0);
  return result < 0 ? -koffi.errno() : 0;
}

/** Pages that a range touches. `length` is not 0. */
export function pagesOf(offset: number, length: number): number {
  return Math.floor((offset + length - 1) / PAGE_BYTES) - Math.floor(offset / PAGE_BYTES) + 1;
}
