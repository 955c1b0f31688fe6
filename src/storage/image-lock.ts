/**
 * Who may have an image open beside us. The locks are those of QEMU (docs/devel "image locking",
 * block/file-posix.c: RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE), so that a QEMU and a sealbus refuse
 * each other's images as two QEMUs would:
 *
 * - each user holds a shared lock on byte 100 + i for each permission i that it uses, and on byte
 *   200 + i for each one that it does not grant others;
 * - then it looks whether somebody does not grant what it uses, or uses what it does not grant, and
 *   if so leaves.
 *
 * Both lock before they look, so of two that come at once at least one leaves (or both). The locks belong to the open file
 * description: they end with the descriptor, also by SIGKILL.
 */
import { byteIsLocked, lockByteShared } from '../ffi/file-lock.ts';

const PERMISSION_BASE = 100;
const UNSHARED_BASE = 200;
/** BLK_PERM_CONSISTENT_READ, BLK_PERM_WRITE and BLK_PERM_RESIZE, as bit numbers. */
const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;

const READER = [CONSISTENT_READ];
const WRITER = [CONSISTENT_READ, WRITE];
/** Nobody else may write it or change its size, whether we write or only read. */
const UNSHARED = [WRITE, RESIZE];

/**
 * Locks an open image until its descriptor is closed.
 * @returns whether it is ours; else close the descriptor
 * @throws SystemError where the file system has no locks
 */
export function lockImage(fd: number, readOnly: boolean): boolean {
  const permissions = readOnly ? READER : WRITER;
  for (const bit of permissions) if (!lockByteShared(fd, PERMISSION_BASE + bit)) return false;
  for (const bit of UNSHARED) if (!lockByteShared(fd, UNSHARED_BASE + bit)) return false;
  return (
    !permissions.some((bit) => byteIsLocked(fd, UNSHARED_BASE + bit)) &&
    !UNSHARED.some((bit) => byteIsLocked(fd, PERMISSION_BASE + bit))
  );
}
