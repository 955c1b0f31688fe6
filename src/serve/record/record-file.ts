import { closeSync, openSync, writeSync } from 'node:fs';
import type { RecordLine } from './record-line.ts';

/** What may wait for the end of a turn of the event loop. */
const WAITING_BYTES_MAX = 256 * 1024;

/**
 * The record in a file, one line of NDJSON each, appended, for its owner alone to read. The lines of a turn of the
 * event loop go out together, and the process waits for the kernel: where a disk is slow functions are slow, and
 * nothing piles up or is lost.
 */
export class RecordFile implements Disposable {
  readonly path: string;
  readonly #log: (message: string) => void;
  #file: number | undefined;
  #waiting = '';
  #flush: NodeJS.Immediate | undefined;
  #lost = 0;

  /** @throws Error where the file cannot be written */
  constructor(path: string, log: (message: string) => void) {
    this.path = path;
    this.#log = log;
    try {
      this.#file = openSync(path, 'a', 0o600);
    } catch (error) {
      throw new Error(
        `expected to write the record to ${path}, got: ${error instanceof Error ? error.message : error}`,
      );
    }
  }

  /** Lines that could not be written. */
  get lost(): number {
    return this.#lost;
  }

  write(line: RecordLine): void {
    if (this.#file === undefined) {
      this.#lost++;
      return;
    }
    this.#waiting += `${JSON.stringify(line)}\n`;
    if (this.#waiting.length >= WAITING_BYTES_MAX) this.#write();
    else this.#flush ??= setImmediate(() => this.#write());
  }

  [Symbol.dispose](): void {
    this.#write();
    this.#close();
  }

  #write(): void {
    clearImmediate(this.#flush);
    this.#flush = undefined;
    if (this.#file === undefined || this.#waiting === '') return;
    const bytes = Buffer.from(this.#waiting);
    this.#waiting = '';
    try {
      for (let done = 0; done < bytes.length; ) done += writeSync(this.#file, bytes, done);
    } catch (error) {
      this.#lost++;
      const words = error instanceof Error ? error.message : String(error);
      this.#log(`the record ${this.path} ends early, writing it failed: ${words}`);
      this.#close();
    }
  }

  #close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
    this.#file = undefined;
  }
}
