import type { Alarm, Clock } from '../pci/clock.ts';

/** What may wait at once for one function; what comes beyond that is not delayed. */
const WAITING_MAX = 1024;

/** What faults have put off, of one function. A reset of the function empties it. */
export class DelayLine {
  readonly #clock: Clock;
  readonly #waiting = new Set<Alarm>();
  readonly #sleepers = new Set<() => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Whether one more can be put off. */
  get hasRoom(): boolean {
    return this.#waiting.size < WAITING_MAX;
  }

  /** Runs it after so many milliseconds, at once where there is no room. */
  after(milliseconds: number, run: () => void): void {
    if (!this.hasRoom) {
      run();
      return;
    }
    const alarm = this.#clock.after(milliseconds * 1e6, () => {
      this.#waiting.delete(alarm);
      run();
    });
    this.#waiting.add(alarm);
  }

  /** Resolves after so many milliseconds, and at once when the line is cleared. */
  sleep(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#sleepers.delete(wake);
        resolve();
      };
      this.#sleepers.add(wake);
      this.after(milliseconds, wake);
    });
  }

  /** Nothing of what waits happens. */
  clear(): void {
    for (const alarm of this.#waiting) alarm.cancel();
    this.#waiting.clear();
    for (const wake of this.#sleepers) wake();
  }
}
