import { readdirSync, renameSync } from 'node:fs';
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
 * there are more, in the order in which they began. Files without a whole header are left: what wrote
 * them was killed at once, or found the disk full.
 */
export function takeTraces(directory: string, output: string): TracedMachine[] {
  const begun = readdirSync(directory)
    .flatMap((name) => {
      const path = join(directory, name);
      const epochMs = beginningOf(path);
      return epochMs === undefined ? [] : [{ path, epochMs }];
    })
    // Those of one process that began in the same millisecond are numbered.
    .sort((a, b) => a.epochMs - b.epochMs || byNumber.compare(a.path, b.path));
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

const byNumber = new Intl.Collator('en', { numeric: true });

function beginningOf(path: string): number | undefined {
  try {
    return openTrace(path).header.epochMs;
  } catch {
    return undefined;
  }
}

function numbered(path: string, n: number): string {
  if (n === 1) return path;
  const end = extname(path);
  return `${path.slice(0, path.length - end.length)}-${n}${end}`;
}
