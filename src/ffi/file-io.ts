/** Positioned and by-address file I/O, for paths where a byte array a call would be waste. */
import koffi from 'koffi';
import { type Bytes, declared, type Native, SystemError, transferred } from './libc.ts';

const readNative = declared('int64_t read(int fd, uintptr_t into, size_t length)');
let readCall: Native | undefined;

/**
 * read(2), once, to a native address. @returns bytes read (0 at the end), or undefined where a
 * non-blocking descriptor has nothing now. @throws SystemError
 */
export function readToAddress(fd: number, address: number, length: number): number | undefined {
  readCall ??= readNative();
  return transferred('read', readCall(fd, address, length));
}

const writeNative = declared('int64_t write(int fd, uintptr_t from, size_t length)');
let writeCall: Native | undefined;

/** write(2), once, from a native address. @returns bytes written, or undefined. @throws SystemError */
export function writeFromAddress(fd: number, address: number, length: number): number | undefined {
  writeCall ??= writeNative();
  return transferred('write', writeCall(fd, address, length));
}

const preadNative = declared('int64_t pread(int fd, void *into, size_t length, int64_t offset)');
let preadCall: Native | undefined;

/** pread(2), once. @returns bytes read. @throws SystemError */
export function pread(fd: number, into: Bytes, offset: number): number {
  preadCall ??= preadNative();
  const result = preadCall(fd, into, into.length, offset);
  if (result < 0) throw new SystemError('pread', koffi.errno(), `at offset ${offset}`);
  return result;
}

const pwriteNative = declared(
  'int64_t pwrite(int fd, const void *from, size_t length, int64_t offset)',
);
let pwriteCall: Native | undefined;

/** pwrite(2), once. @returns bytes written, or minus the errno: a caller may go on from some. */
export function pwrite(fd: number, from: Bytes, offset: number): number {
  pwriteCall ??= pwriteNative();
  const result = pwriteCall(fd, from, from.length, offset);
  return result < 0 ? -koffi.errno() : result;
}

const syncFileRangeNative = declared(
  'int sync_file_range(int fd, int64_t offset, int64_t bytes, unsigned int flags)',
);
let syncFileRangeCall: Native | undefined;
const SYNC_FILE_RANGE_WRITE = 2;

/**
 * sync_file_range(2): starts to write the range's dirty pages back, and waits for none of them. Says
 * nothing of a failure: whoever waits for the pages gets it.
 */
export function startWriteBack(fd: number, offset: number, bytes: number): void {
  syncFileRangeCall ??= syncFileRangeNative();
  syncFileRangeCall(fd, offset, bytes, SYNC_FILE_RANGE_WRITE);
}
