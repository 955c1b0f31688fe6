import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { TraceEnd } from './event.ts';
import { checkLine } from './event-shape.ts';

/** Covers an end line, also one that has come to have more fields. */
const TAIL_BYTES = 4096;

/** The end line of a trace, without reading what is before it. Undefined where it was cut short. */
export function readTraceEnd(path: string): TraceEnd | undefined {
  const file = openSync(path, 'r');
  try {
    const { size } = fstatSync(file);
    const tail = Buffer.alloc(Math.min(size, TAIL_BYTES));
    const count = readSync(file, tail, 0, tail.length, size - tail.length);
    const text = tail.toString('utf8', 0, count);
    if (!text.endsWith('\n')) return undefined;
    const line = text.slice(text.lastIndexOf('\n', text.length - 2) + 1);
    try {
      const checked = checkLine(JSON.parse(line));
      return checked.kind === 'end' ? checked : undefined;
    } catch {
      // No end line, but the end of one that is longer, or none at all: the reader names it.
      return undefined;
    }
  } finally {
    closeSync(file);
  }
}
