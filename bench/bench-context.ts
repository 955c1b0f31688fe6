import type { Parts } from '../src/setup/parts.ts';

/** What each benchmark gets. */
export interface BenchContext {
  readonly parts: Parts;
  /** Progress, for people; never a result. */
  say(words: string): void;
  /** Aborted by Ctrl-C: what was started is ended, and the benchmark throws. */
  readonly signal: AbortSignal;
}
