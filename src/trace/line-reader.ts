import { closeSync, openSync, readSync } from 'node:fs';

const CHUNK_BYTES = 256 * 1024;
const NEWLINE = 0x0a;

/** A line of a file, without its end. */
export interface Line {
  /** From 1 on. */
  readonly number: number;
  readonly text: string;
  /** False of a last line that no newline ends. */
  readonly ended: boolean;
}

/**
 * The lines of a file, one after another: no more of it is in memory than the line and a chunk.
 * @throws Error where the file cannot be read, or a line is longer than `bytesMax`
 */
export function* linesOf(path: string, bytesMax: number): Generator<Line, void, void> {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    throw new Error(`expected a file to read, got ${path}: ${messageOf(error)}`);
  }
  try {
    const chunk = Buffer.alloc(CHUNK_BYTES);
    let parts: Buffer[] = [];
    let partBytes = 0;
    let number = 1;
    const line = (ended: boolean): Line => {
      const text = Buffer.concat(parts).toString('utf8');
      parts = [];
      partBytes = 0;
      return { number: number++, text, ended };
    };
    for (;;) {
      const count = readSync(file, chunk);
      if (count === 0) break;
      let start = 0;
      while (start < count) {
        const end = chunk.subarray(0, count).indexOf(NEWLINE, start);
        const part = chunk.subarray(start, end === -1 ? count : end);
        partBytes += part.length;
        if (partBytes > bytesMax) {
          throw new Error(`${path}:${number}: expected a line of up to ${bytesMax} bytes`);
        }
        parts.push(end === -1 ? Buffer.from(part) : part);
        if (end === -1) break;
        yield line(true);
        start = end + 1;
      }
    }
    if (partBytes > 0) yield line(false);
  } finally {
    closeSync(file);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
