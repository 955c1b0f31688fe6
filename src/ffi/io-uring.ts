/**
 * io_uring(7): the three system calls, and the numbers of linux/io_uring.h that sealbus uses. glibc
 * has no wrappers, so they go through syscall(2), which has the same numbers for them everywhere.
 */
import koffi from 'koffi';
import { type Bytes, checked, declared, type Native } from './libc.ts';

const SYS_IO_URING_SETUP = 425;
const SYS_IO_URING_ENTER = 426;
const SYS_IO_URING_REGISTER = 427;

export const IORING_OFF_SQ_RING = 0;
export const IORING_OFF_SQES = 0x1000_0000;
export const IORING_FEAT_SINGLE_MMAP = 1;
export const IORING_REGISTER_EVENTFD = 4;
export const IORING_REGISTER_PROBE = 8;
export const IORING_REGISTER_IOWQ_MAX_WORKERS = 19;
export const IOSQE_ASYNC = 1 << 4;
export const IORING_OP_FSYNC = 3;
export const IORING_OP_FALLOCATE = 17;
export const IORING_OP_READ = 22;
export const IORING_OP_WRITE = 23;
export const IORING_FSYNC_DATASYNC = 1;
/** struct io_uring_params */
export const PARAMS_BYTES = 120;
export const SQE_BYTES = 64;
export const CQE_BYTES = 16;

const setupNative = declared('long syscall(long number, ulong entries, void *params)');

/**
 * io_uring_setup(2); `params` (120 bytes) is filled. @returns the ring's descriptor, close-on-exec.
 * @throws SystemError (ENOSYS: no such call; EPERM: forbidden here)
 */
export function ioUringSetup(entries: number, params: Bytes): number {
  return checked('io_uring_setup', setupNative()(SYS_IO_URING_SETUP, entries, params));
}

const enterNative = declared(
  'long syscall(long number, ulong fd, ulong submit, ulong complete, ulong flags, ulong sig, ulong size)',
);
let enterCall: Native | undefined;

/** io_uring_enter(2) that waits for nothing. @returns entries taken, or minus the errno. */
export function ioUringEnter(fd: number, submit: number): number {
  enterCall ??= enterNative();
  const taken = enterCall(SYS_IO_URING_ENTER, fd, submit, 0, 0, 0, 0);
  return taken < 0 ? -koffi.errno() : taken;
}

const registerNative = declared(
  'long syscall(long number, ulong fd, ulong operation, void *argument, ulong count)',
);

/** io_uring_register(2). @throws SystemError (EINVAL: the kernel does not know the operation) */
export function ioUringRegister(
  fd: number,
  operation: number,
  argument: Bytes,
  count: number,
): void {
  const done = registerNative()(SYS_IO_URING_REGISTER, fd, operation, argument, count);
  checked('io_uring_register', done, `operation ${operation}`);
}
