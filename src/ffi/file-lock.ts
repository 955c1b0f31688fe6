/** Open file description locks: fcntl(2), F_OFD_SETLK and F_OFD_GETLK. They end with the last descriptor. */
import koffi from 'koffi';
import { type Bytes, checked, declared } from './libc.ts';

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
const EACCES = 13;
const EAGAIN = 11;

const fcntlNative = declared('int fcntl(int fd, int command, void *lock)');

/** struct flock (x86-64): type at 0, whence at 2 (0: the start), start at 8, length at 16, pid at 24. */
function flock(type: number, start: number): { bytes: Bytes; view: DataView } {
  const bytes = new Uint8Array(new ArrayBuffer(128));
  const view = new DataView(bytes.buffer);
  view.setInt16(0, type, true);
  view.setBigInt64(8, BigInt(start), true);
  view.setBigInt64(16, 1n, true);
  return { bytes, view };
}

/**
 * Takes a shared lock on one byte, which need not exist. @returns false where another holds it alone.
 * @throws SystemError (EINVAL, ENOLCK, EOPNOTSUPP: the file system has no such locks)
 */
export function lockByteShared(fd: number, offset: number): boolean {
  const result = fcntlNative()(fd, F_OFD_SETLK, flock(F_RDLCK, offset).bytes);
  if (result === -1 && (koffi.errno() === EAGAIN || koffi.errno() === EACCES)) return false;
  checked('fcntl', result, `F_OFD_SETLK of byte ${offset}`);
  return true;
}

/** Whether another open file description holds any lock on this byte. @throws SystemError */
export function byteIsLocked(fd: number, offset: number): boolean {
  const { bytes, view } = flock(F_WRLCK, offset);
  checked('fcntl', fcntlNative()(fd, F_OFD_GETLK, bytes), `F_OFD_GETLK of byte ${offset}`);
  return view.getInt16(0, true) !== F_UNLCK;
}
