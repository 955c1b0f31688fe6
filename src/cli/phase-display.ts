import type { ProgressStream } from '../setup/progress.ts';

const FRAMES = ['⠋', '⠙', '⠸', '⠴', '⠦', '⠇'];
const FRAME_MS = 120;

/** The phases of a longer command on stderr: a live line each on a terminal, a plain line piped. */
export class PhaseDisplay {
  readonly #stream: ProgressStream;
  readonly #live: boolean;
  readonly #colours: boolean;
  #words: string | undefined;
  #since = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(stream: ProgressStream = process.stderr, env = process.env) {
    this.#stream = stream;
    this.#live = stream.isTTY === true && env.TERM !== 'dumb';
    this.#colours = this.#live && !env.NO_COLOR;
  }

  begin(words: string): void {
    this.#finish();
    this.#words = words;
    this.#since = performance.now();
    if (!this.#live) {
      this.#stream.write(`${words}\n`);
      return;
    }
    this.#draw();
    this.#timer = setInterval(() => this.#draw(), FRAME_MS);
    this.#timer.unref();
  }

  /** Whether a phase has begun and not ended. */
  get running(): boolean {
    return this.#words !== undefined;
  }

  /** A line of its own, above the phase that runs. */
  say(message: string): void {
    this.#stream.write(`${this.#live ? '\r\x1b[K' : ''}${message}\n`);
    if (this.#live && this.#words !== undefined) this.#draw();
  }

  /** Ends the phase that runs, for good or ill. */
  end(): void {
    this.#finish();
  }

  #finish(): void {
    clearInterval(this.#timer);
    if (this.#words === undefined) return;
    if (this.#live) {
      const mark = this.#colours ? '\x1b[32m✓\x1b[0m' : '✓';
      this.#stream.write(`\r\x1b[K${mark} ${this.#words} (${this.#seconds()} s)\n`);
    }
    this.#words = undefined;
  }

  #draw(): void {
    const frame = FRAMES[Math.floor((performance.now() - this.#since) / FRAME_MS) % FRAMES.length];
    const words = `${frame} ${this.#words} (${this.#seconds()} s)`;
    this.#stream.write(`\r\x1b[K${words.slice(0, (this.#stream.columns || 80) - 1)}`);
  }

  #seconds(): string {
    return ((performance.now() - this.#since) / 1000).toFixed(1);
  }
}
