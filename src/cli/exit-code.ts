import { GuestPanicError, VmTimeoutError } from '../vm/vm-error.ts';

/** Ctrl-C and its like: 128 + the signal's number, as shells have it. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  readonly exitCode: number;

  constructor(signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP') {
    super(`interrupted by ${signal}`);
    this.exitCode = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }[signal];
  }
}

export const EXIT_TIMEOUT = 124;
export const EXIT_PANIC = 255;

/** Says what went wrong on stderr, and what status to end with. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof Interrupted) return error.exitCode;
  process.stderr.write(`sealbus: ${error instanceof Error ? error.message : String(error)}\n`);
  if (process.env.SEALBUS_DEBUG && error instanceof Error) {
    process.stderr.write(`${error.stack}\n`);
  }
  if (error instanceof VmTimeoutError) return EXIT_TIMEOUT;
  if (error instanceof GuestPanicError) return EXIT_PANIC;
  return 1;
}
