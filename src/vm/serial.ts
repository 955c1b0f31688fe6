/** The guest's serial console: a bounded log, and waiting for what it says. */
import type { Duplex } from 'node:stream';
import { kernelComplaints } from './kernel-log.ts';
import { TextTail } from './text-tail.ts';
import { GuestPanicError, VmError, VmTimeoutError } from './vm-error.ts';

const logBytesMax = 1 << 20;
const panicWords = 'Kernel panic - not syncing';
/** A panic's line that is longer is cut. */
const panicLineMax = 1024;

export interface ExpectOptions {
  readonly timeoutMs: number;
  /** Named in the error, where the pattern alone says too little. */
  readonly what?: string;
}

interface Waiter {
  check(): boolean;
  fail(error: Error): void;
}

export class SerialConsole {
  readonly #stream: Duplex;
  readonly #log = new TextTail(logBytesMax);
  readonly #waiters = new Set<Waiter>();
  /** What may be the beginning of a panic's line. */
  #recent = '';
  #panic: string | undefined;
  #ended = false;
  readonly #onPanic: ((line: string) => void)[] = [];

  /** Reads the stream from now on; `onChunk` sees all of it, such as to show it. */
  constructor(stream: Duplex, onChunk?: (chunk: Buffer) => void) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => {
      this.#log.push(chunk);
      onChunk?.(chunk);
      this.#watchForPanic(chunk);
      for (const waiter of [...this.#waiters]) waiter.check();
    });
    stream.on('error', () => {}); // QEMU is gone; 'close' follows
    stream.once('close', () => {
      this.#ended = true;
      if (this.#recent.startsWith(panicWords)) this.#panicked(this.#recent);
      for (const waiter of [...this.#waiters]) {
        if (!waiter.check()) waiter.fail(new VmError('the console closed'));
      }
    });
  }

  /** What was said, at most the last MiB. */
  get log(): string {
    return this.#log.toString();
  }

  /**
   * Types into it. Nothing where QEMU is gone.
   * @returns whether more may come at once; if not, `onDrain` is called when it may
   */
  write(bytes: Uint8Array | string, onDrain: () => void = () => {}): boolean {
    if (this.#stream.destroyed) return true;
    const more = this.#stream.write(bytes);
    if (!more) this.#stream.once('drain', onDrain);
    return more;
  }

  /** The panic's line, once there was one. */
  get panic(): string | undefined {
    return this.#panic;
  }

  lastLines(count = 20): string {
    return this.#log.lastLines(count);
  }

  /** Calls once, at the panic or now if it was. */
  onPanic(call: (line: string) => void): void {
    if (this.#panic !== undefined) call(this.#panic);
    else this.#onPanic.push(call);
  }

  /** Lines in which the kernel complains: warnings with a trace, bugs, oopses, stalls, lockdep. */
  complaints(): string[] {
    return kernelComplaints(this.log).map(({ line }) => line);
  }

  /**
   * Waits until the log matches, and gives the match; it may have been there before.
   * @throws VmTimeoutError, GuestPanicError, or VmError where the console closed first; each names
   *   what was waited for and has the last lines
   */
  expect(pattern: RegExp, { timeoutMs, what }: ExpectOptions): Promise<RegExpMatchArray> {
    const wanted = `${what ?? 'the console to say'} ${pattern}`;
    return new Promise((resolve, reject) => {
      const fail = (error: Error) => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        reject(error);
      };
      const waiter: Waiter = {
        check: () => {
          const match = this.log.match(pattern);
          if (!match) return false;
          clearTimeout(timer);
          this.#waiters.delete(waiter);
          resolve(match);
          return true;
        },
        fail: (error) => fail(this.#withLog(error, wanted)),
      };
      const timer = setTimeout(() => {
        const error = new VmTimeoutError(`no answer within ${timeoutMs / 1000} s`);
        waiter.fail(error);
      }, timeoutMs);
      this.#waiters.add(waiter);
      if (waiter.check()) return;
      if (this.#panic !== undefined) waiter.fail(new GuestPanicError(this.#panic));
      else if (this.#ended) waiter.fail(new VmError('the console has closed'));
    });
  }

  /** The kernel's words come in pieces, often byte by byte: a panic is one when its line is whole. */
  #watchForPanic(chunk: Buffer): void {
    if (this.#panic !== undefined) return;
    const text = this.#recent + chunk.toString('latin1');
    const start = text.indexOf(panicWords);
    if (start < 0) {
      this.#recent = text.slice(-panicWords.length);
      return;
    }
    const line = text.slice(start, start + panicLineMax);
    const end = line.indexOf('\n');
    if (end < 0 && line.length < panicLineMax) this.#recent = line;
    else this.#panicked(end < 0 ? line : line.slice(0, end));
  }

  #panicked(line: string): void {
    this.#recent = '';
    this.#panic = line.trim();
    for (const waiter of [...this.#waiters]) {
      if (!waiter.check()) waiter.fail(new GuestPanicError(this.#panic));
    }
    for (const call of this.#onPanic.splice(0)) call(this.#panic);
  }

  #withLog(error: Error, wanted: string): Error {
    error.message =
      `expected ${wanted}, got: ${error.message}. ` +
      `The console's last lines:\n${indent(this.lastLines())}`;
    return error;
  }
}

export function indent(text: string): string {
  return (text || '(nothing)').replace(/^/gm, '    ');
}
