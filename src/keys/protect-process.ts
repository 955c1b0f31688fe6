import { libc, PR_GET_DUMPABLE, PR_SET_DUMPABLE, RLIMIT_CORE, systemError } from './libc.ts';

/**
 * Shuts this process against core dumps and against debuggers of the same user: PR_SET_DUMPABLE 0
 * (prctl(2); it also gives /proc/PID to root) and RLIMIT_CORE 0. The controller calls it before the
 * first key is loaded; a key's schedule in libcrypto's heap is out of reach of secret memory.
 * @throws Error where the kernel refuses.
 */
export function protectProcess(): void {
  if (libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) !== 0) {
    throw systemError('prctl(PR_SET_DUMPABLE, 0)', 'keys would be in reach of a debugger');
  }
  if (libc().setrlimit(RLIMIT_CORE, new BigUint64Array([0n, 0n])) !== 0) {
    throw systemError('setrlimit(RLIMIT_CORE, 0)', 'keys could end up in a core dump');
  }
}

/** Whether {@link protectProcess} holds now. */
export function isProcessProtected(): boolean {
  return libc().prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) === 0;
}
