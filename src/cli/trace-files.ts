import { readdirSync, renameSync, statSync } from 'node:fs';
import { extname, join } from 'node:path';
import { openTrace } from '../trace/read-trace.ts';
import { readTraceEnd } from '../trace/trace-tail.ts';

/** A trace that a command left behind. */
export interface TracedMachine {
  readonly path: string;
  /** Undefined where it was cut short. */
  readonly events: number | undefined;
  readonly dropped: number;
}

/**
 * Moves what machines wrote into `directory` to `output`, and to its name with -2, -3 and so on where
 * there are more, in the order in which they began. Files of machines that were killed before they
 * wrote anything are left.
 */
export function takeTraces(directory: string, output: string): TracedMachine[] {
  const begun = readdirSync(directory)
    .map((name) => join(directory, name))
    .filter((path) => statSync(path).size > 0)
    .map((path) => ({ path, epochMs: openTrace(path).header.epochMs }))
    .sort((a, b) => a.epochMs - b.epochMs);
  return begun.map(({ path }, index) => {
    const end = readTraceEnd(path);
    const to = numbered(output, index + 1);
    renameSync(path, to);
    return { path: to, events: end?.events, dropped: end?.dropped ?? 0 };
  });
}

/** What there is of a trace, in words. */
export function describeTrace({ path, events, dropped }: TracedMachine): string {
  if (events === undefined) return `${path}, cut short: what wrote it was killed`;
  const more = dropped === 0 ? '' : `, and ${dropped} more that found no room`;
  return `${path}, ${events} events${more}`;
}

function numbered(path: string, n: number): string {
  if (n === 1) return path;
  const end = extname(path);
  return `${path.slice(0, path.length - end.length)}-${n}${end}`;
}
