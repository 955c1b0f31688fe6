import type { Alarm, Clock } from '../pci/clock.ts';

/** How much later than it is due an alarm rings that the recording does not ring. */
const OVERDUE_NS = 10e9;
/** Timers are counted in whole milliseconds, so one may ring that much before it is due. */
const EARLY_NS = 2e6;
/** Alarms of one replay that may be pending. */
const ALARMS_MAX = 1_000_000;

interface Pending {
  /** Alarms of the function are counted as they are set, from 1 on; others have 0. */
  readonly number: number;
  readonly dueNs: number;
  /** Of all that were set, to tell those that are due together. */
  readonly order: number;
  readonly ring: () => void;
}

/**
 * Time as a recording has it: it stands at the event that is played, and an alarm rings where the
 * recording rang it. What it did not ring (the device is another one by now, or nobody recorded
 * alarms) rings by its due time.
 */
export class ReplayTime {
  /** For what a device is made with: alarms ring when they are due. */
  readonly clock: Clock;
  readonly #recorded: boolean;
  readonly #pending = new Set<Pending>();
  #alarms = 0;
  #orders = 0;
  #nowNs = 0;

  /** @param recorded whether the recording says when the function's alarms rang */
  constructor(recorded: boolean) {
    this.#recorded = recorded;
    this.clock = this.#face(() => 0);
  }

  /** For the function itself: its alarms are the ones that a recording counts. */
  readonly functionClock: Clock = this.#face(() => ++this.#alarms);

  get nowNs(): number {
    return this.#nowNs;
  }

  /** Time never goes back. */
  goTo(ns: number): void {
    this.#nowNs = Math.max(this.#nowNs, ns);
  }

  /**
   * Rings the alarm that the recording rang at `ns`; where the device has not that one any more, the one
   * of its that is due.
   */
  ring(number: number, ns: number): void {
    const found = this.#withNumber(number);
    if (found !== undefined && found.dueNs <= ns + EARLY_NS) {
      this.goTo(ns);
      this.#ring(found);
      return;
    }
    this.ringOne(ns);
    this.goTo(ns);
  }

  /**
   * Rings, in their order, what is due by `ns` and no event of the recording will ring.
   * @param but the number of the one that the recording rings at `ns`
   */
  pass(ns: number, but?: number): void {
    for (let rung = 0; rung < ALARMS_MAX; rung++) {
      const next = this.#next(ns, this.#recorded ? OVERDUE_NS : 0);
      if (next === undefined || next.number === but) return;
      this.#ring(next);
    }
  }

  /** Rings one alarm that is due by `ns`, whoever would. @returns whether there was one */
  ringOne(ns: number): boolean {
    const next = this.#next(ns, 0);
    if (next !== undefined) this.#ring(next);
    return next !== undefined;
  }

  #withNumber(number: number): Pending | undefined {
    for (const alarm of this.#pending) if (alarm.number === number) return alarm;
    return undefined;
  }

  #next(ns: number, lateNs: number): Pending | undefined {
    let next: Pending | undefined;
    for (const alarm of this.#pending) {
      const late = alarm.number === 0 ? 0 : lateNs;
      if (alarm.dueNs + late > ns) continue;
      const sooner =
        next === undefined ||
        alarm.dueNs < next.dueNs ||
        (alarm.dueNs === next.dueNs && alarm.order < next.order);
      if (sooner) next = alarm;
    }
    return next;
  }

  #ring(alarm: Pending): void {
    this.#pending.delete(alarm);
    this.goTo(alarm.dueNs);
    alarm.ring();
  }

  #face(number: () => number): Clock {
    const time = this;
    return {
      get nowNs() {
        return time.#nowNs;
      },
      after: (delayNs, callback) => this.#set(number(), delayNs, callback),
      // The recording has waited already.
      pause: () => undefined,
    };
  }

  #set(number: number, delayNs: number, ring: () => void): Alarm {
    if (!(delayNs >= 0)) {
      throw new RangeError(`expected a delay of nanoseconds from 0 on, got ${String(delayNs)}`);
    }
    if (this.#pending.size >= ALARMS_MAX) {
      throw new Error(`${ALARMS_MAX} alarms are pending: a device bug`);
    }
    const alarm = { number, dueNs: this.#nowNs + delayNs, order: ++this.#orders, ring };
    this.#pending.add(alarm);
    return { cancel: () => void this.#pending.delete(alarm) };
  }
}
