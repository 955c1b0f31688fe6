import { getSystemErrorName } from 'node:util';

/** A system or library call that failed with an errno: `mmap: ENOMEM (12) while …`. */
export class SystemError extends Error {
  override readonly name = 'SystemError';
  /** The call that failed, such as `mmap`. */
  readonly syscall: string;
  /** Positive, as errno(3) has it. */
  readonly errno: number;
  /** Its name, such as `ENOMEM`. */
  readonly code: string;

  constructor(syscall: string, errno: number, doing?: string) {
    const code = errnoName(errno);
    super(`${syscall} failed: ${code} (errno ${errno})${doing === undefined ? '' : `, ${doing}`}`);
    this.syscall = syscall;
    this.errno = errno;
    this.code = code;
  }
}

function errnoName(errno: number): string {
  try {
    return getSystemErrorName(-errno);
  } catch {
    return `E${errno}`;
  }
}
