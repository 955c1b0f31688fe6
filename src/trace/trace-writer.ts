import { closeSync, openSync, writeSync } from 'node:fs';
import type { TraceLine } from './event.ts';

/** One line of NDJSON, with its end. */
export function traceLine(line: TraceLine): string {
  return `${JSON.stringify(line)}\n`;
}

/**
 * A trace file that grows. Writing waits for the kernel: where a disk is slow the device is slow, and
 * nothing piles up or is lost.
 */
export class TraceWriter {
  readonly path: string;
  #file: number | undefined;
  #failure: Error | undefined;

  /**
   * Makes a file that its owner alone may read: a trace may hold what a guest keeps secret.
   * @param fresh whether a file that is there already is refused, else it is overwritten
   * @throws Error where the file cannot be made
   */
  constructor(path: string, fresh = false) {
    this.path = path;
    try {
      this.#file = openSync(path, fresh ? 'wx' : 'w', 0o600);
    } catch (error) {
      if (isTaken(error)) throw error;
      throw new Error(`expected to write a trace to ${path}, got: ${messageOf(error)}`);
    }
  }

  /** Why writing has stopped: a disk that is full, say. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** Writes all of it; answers false where it could not, and never throws. */
  write(given: string | Uint8Array): boolean {
    if (this.#file === undefined) return false;
    const bytes = typeof given === 'string' ? Buffer.from(given) : given;
    try {
      for (let done = 0; done < bytes.length; ) done += writeSync(this.#file, bytes, done);
      return true;
    } catch (error) {
      this.#failure = new Error(
        `the trace ${this.path} ends early, writing it failed: ${messageOf(error)}`,
      );
      this.close();
      return false;
    }
  }

  close(): void {
    if (this.#file === undefined) return;
    closeSync(this.#file);
    this.#file = undefined;
  }
}

/** Whether it says that a file is there already. */
export function isTaken(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EEXIST';
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
