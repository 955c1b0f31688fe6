import type { PartName } from './parts.ts';

/** One step of set-up. `done` of `total` where known, both in the same unit (percent, bytes). */
export interface SetupEvent {
  /** What it is for; `archive` is Debian's index, `host` a program installed on the host. */
  readonly part: PartName | 'archive' | 'host';
  /** In words: `downloading`, `unpacking`, … A part's last phase is `ready`. */
  readonly phase: string;
  readonly done?: number;
  readonly total?: number;
}

export type SetupProgress = (event: SetupEvent) => void;

/** What a renderer needs of a terminal or a pipe; `process.stderr` is one. */
export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

export interface ProgressRenderer {
  readonly event: SetupProgress;
  /** Ends the live line; call it before anything else is printed. */
  end(): void;
}

const redraw_ms_min = 80;

/**
 * Shows set-up's events: one live line on a terminal, a line a phase where piped.
 * Prints nothing before the first event, so that a run with nothing to do is silent.
 */
export function renderProgress(
  stream: ProgressStream = process.stderr,
  env: Readonly<Record<string, string | undefined>> = process.env,
  now: () => number = Date.now,
): ProgressRenderer {
  const live = stream.isTTY === true && env.TERM !== 'dumb';
  const colour = live && !env.NO_COLOR;
  const paint = (code: number, text: string) => (colour ? `\x1b[${code}m${text}\x1b[0m` : text);
  const clear = '\r\x1b[K';
  let lastStep = '';
  let drawn = false;
  let drawn_ms = Number.NEGATIVE_INFINITY;

  function event({ part, phase, done, total }: SetupEvent): void {
    const step = `${part} ${phase}`;
    const changed = step !== lastStep;
    lastStep = step;
    if (!live) {
      if (changed) stream.write(`set-up: ${part}: ${phase}\n`);
      return;
    }
    if (phase === 'ready') {
      stream.write(`${clear}${paint(32, '✓')} ${part}\n`);
      drawn = false;
      return;
    }
    const time_ms = now();
    if (!changed && time_ms - drawn_ms < redraw_ms_min) return;
    drawn_ms = time_ms;
    const words = shortened(`${part}: ${phase}`, (stream.columns || 80) - 32);
    stream.write(`${clear}${paint(36, '◌')} ${words}${bar(done, total, paint)}`);
    drawn = true;
  }

  function end(): void {
    if (drawn) stream.write(clear);
    drawn = false;
  }

  return { event, end };
}

function bar(
  done: number | undefined,
  total: number | undefined,
  paint: (code: number, text: string) => string,
): string {
  if (done === undefined || total === undefined || total <= 0) return '';
  const share = Math.min(1, Math.max(0, done / total));
  const cells = 20;
  const full = Math.round(share * cells);
  return ` ${paint(36, '━'.repeat(full))}${paint(2, '─'.repeat(cells - full))} ${Math.round(share * 100)} %`;
}

function shortened(text: string, width: number): string {
  if (text.length <= width) return text;
  return `${text.slice(0, Math.max(1, width - 1))}…`;
}
