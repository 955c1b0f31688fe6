/** The calls that make, fill and shield memory for secrets; addresses are numbers. */
import { checked, declared } from './libc.ts';

const SYS_MEMFD_SECRET = 447; // x86-64; glibc has no wrapper
const O_CLOEXEC = 0o2000000;
const RLIMIT_CORE = 4;

const syscallNative = declared('long syscall(long number, long flags)');

/** memfd_secret(2), close-on-exec. @returns the descriptor. @throws SystemError (ENOSYS: the kernel has none) */
export function memfdSecret(): number {
  return checked('memfd_secret', syscallNative()(SYS_MEMFD_SECRET, O_CLOEXEC));
}

const getrandomNative = declared(
  'int64_t getrandom(uintptr_t into, size_t length, unsigned int flags)',
);

/** getrandom(2), once. @returns bytes filled: all, where they are 256 or fewer. @throws SystemError (EINTR) */
export function getrandom(address: number, length: number): number {
  return checked('getrandom', getrandomNative()(address, length, 0));
}

const preadNative = declared(
  'int64_t pread(int fd, uintptr_t into, size_t length, int64_t offset)',
);

/** pread(2), once, to a native address. @returns bytes read (0 at the end). @throws SystemError */
export function preadToAddress(
  fd: number,
  address: number,
  length: number,
  offset: number,
): number {
  return checked('pread', preadNative()(fd, address, length, offset));
}

const setrlimitNative = declared('int setrlimit(int resource, const void *limits)');

/** RLIMIT_CORE 0, soft and hard: this process leaves no core dump. @throws SystemError */
export function forbidCoreDumps(): void {
  checked('setrlimit', setrlimitNative()(RLIMIT_CORE, new Uint8Array(16)), 'RLIMIT_CORE 0');
}
