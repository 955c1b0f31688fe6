import { PR_SET_DUMPABLE, prctl } from '../ffi/libc.ts';
import { forbidCoreDumps } from '../ffi/secrecy.ts';

const PR_GET_DUMPABLE = 3;

/**
 * Shuts this process against core dumps and against debuggers of the same user: PR_SET_DUMPABLE 0
 * (prctl(2); it also gives /proc/PID to root) and RLIMIT_CORE 0. The controller calls it before the
 * first key is loaded; a key's schedule in libcrypto's heap is out of reach of secret memory.
 * @throws SystemError where the kernel refuses.
 */
export function protectProcess(): void {
  prctl(PR_SET_DUMPABLE, 0);
  forbidCoreDumps();
}

/** Whether {@link protectProcess} holds now. */
export function isProcessProtected(): boolean {
  return prctl(PR_GET_DUMPABLE) === 0;
}
