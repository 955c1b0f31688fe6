/**
 * Time as a device sees it. It is handed to a function when it is made, so that tests run on a
 * clock of their own and never wait.
 */
export interface Clock {
  /** Nanoseconds since some fixed moment; never goes back. */
  readonly nowNs: number;
  /** Calls back once, `delayNs` nanoseconds from now as nearly as it can, never before it returns. */
  after(delayNs: number, callback: () => void): Alarm;
  /**
   * Sleeps on the event loop's thread, for microseconds: what a device that polls does between two
   * looks, so that the core it holds goes to whoever waits for it (the VMM, with the device's own
   * interrupt). On the system's clock it lasts the timer slack of the process longer.
   * @throws RangeError beyond a millisecond: all else in the process stands still meanwhile
   */
  pause(ns: number): void;
}

export interface Alarm {
  /** Does nothing where it has rung or was cancelled already. */
  cancel(): void;
}

/** The longest delay of setTimeout, some 24 days. */
const DELAY_NS_MAX = 0x7fff_ffff * 1e6;

const PAUSE_NS_MAX = 1e6;

/** What nobody ever wakes. */
const sleeper = new Int32Array(new SharedArrayBuffer(4));

/** The host's monotonic clock. Below a millisecond it calls back on the next turn of the loop. */
export const systemClock: Clock = {
  get nowNs() {
    return Math.round(performance.now() * 1e6);
  },
  after(delayNs, callback) {
    checkDelay(delayNs);
    if (delayNs < 1e6) {
      const immediate = setImmediate(callback);
      return { cancel: () => clearImmediate(immediate) };
    }
    const timeout = setTimeout(callback, Math.ceil(delayNs / 1e6));
    return { cancel: () => clearTimeout(timeout) };
  },
  pause(ns) {
    checkPause(ns);
    Atomics.wait(sleeper, 0, 0, ns / 1e6);
  },
};

/** A clock that stands still until a test moves it. */
export class ManualClock implements Clock {
  #nowNs = 0;
  readonly #pending = new Set<{ readonly at: number; readonly callback: () => void }>();

  get nowNs(): number {
    return this.#nowNs;
  }

  /** Alarms that have not rung. */
  get pending(): number {
    return this.#pending.size;
  }

  after(delayNs: number, callback: () => void): Alarm {
    checkDelay(delayNs);
    const alarm = { at: this.#nowNs + delayNs, callback };
    this.#pending.add(alarm);
    return { cancel: () => void this.#pending.delete(alarm) };
  }

  /** Time stands still all the same. */
  pause(ns: number): void {
    checkPause(ns);
  }

  /**
   * Moves time on, ringing every alarm on the way in order, those that are set meanwhile too.
   *
   * @throws Error after 100,000 alarms: one that sets itself again without any delay.
   */
  advance(ns: number): void {
    checkDelay(ns);
    const end = this.#nowNs + ns;
    for (let rung = 0; rung < 100_000; rung++) {
      let next: { readonly at: number; readonly callback: () => void } | undefined;
      for (const alarm of this.#pending) {
        if (alarm.at <= end && (next === undefined || alarm.at < next.at)) next = alarm;
      }
      if (next === undefined) {
        this.#nowNs = end;
        return;
      }
      this.#pending.delete(next);
      this.#nowNs = next.at;
      next.callback();
    }
    throw new Error('an alarm of the manual clock sets itself again without end');
  }
}

function checkDelay(delayNs: number): void {
  if (!(delayNs >= 0 && delayNs <= DELAY_NS_MAX)) {
    throw new RangeError(
      `expected a delay from 0 to ${DELAY_NS_MAX} nanoseconds, got ${String(delayNs)}`,
    );
  }
}

/** Written so that NaN fails too: it would be a pause without end. */
function checkPause(ns: number): void {
  if (!(ns >= 0 && ns <= PAUSE_NS_MAX)) {
    throw new RangeError(`expected a pause of 0 to ${PAUSE_NS_MAX} nanoseconds, got ${String(ns)}`);
  }
}
