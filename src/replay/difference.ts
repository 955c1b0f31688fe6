import type { TraceEvent } from '../trace/event.ts';
import { eventWords } from './event-words.ts';
import type { Placed, Script } from './script.ts';

/** Events of the function that are shown before and after the place. */
const BEFORE = 6;
const AFTER = 2;

/** Where a device first did something else than in the recording. */
export interface Difference {
  /** Of the trace's NDJSON; the header is line 1. */
  readonly line: number;
  /** What the recording has there; undefined behind its last event. */
  readonly event: TraceEvent | undefined;
  readonly expected: string;
  readonly got: string;
  /** What else there is to know: the device's own error, say. */
  readonly notes: readonly string[];
  /** The function's events around the place, in words. */
  readonly around: readonly AroundLine[];
}

export interface AroundLine {
  readonly line: number;
  /** Nanoseconds since the trace began. */
  readonly t: number;
  readonly words: string;
  /** Whether this is the place. */
  readonly here: boolean;
}

export function around(script: Script, line: number): readonly AroundLine[] {
  const { all } = script;
  const found = all.findIndex((placed) => placed.line >= line);
  const at = found < 0 ? all.length : found;
  return all.slice(Math.max(0, at - BEFORE), at + AFTER + 1).map((placed: Placed) => {
    const { event } = placed;
    return { line: placed.line, t: event.t, words: eventWords(event), here: placed.line === line };
  });
}

/** For people; several lines. */
export function differenceText(difference: Difference): string {
  const { expected, got, notes } = difference;
  const width = Math.max(...difference.around.map(({ line }) => String(line).length), 1);
  const lines = difference.around.map(({ line, t, words, here }) => {
    const time = `${(t / 1e6).toFixed(3)} ms`.padStart(14);
    return `${here ? '>' : ' '} ${String(line).padStart(width)} ${time}  ${words}`;
  });
  return [
    `  expected  ${expected}`,
    `  got       ${got}`,
    ...notes.map((note) => `  note      ${note}`),
    '',
    ...lines,
  ].join('\n');
}
