import type { Alarm, Clock } from '../pci/clock.ts';

/** A function's clock, and who is told of each alarm that rings, before what it sets off. */
export class TracedClock implements Clock {
  readonly #inner: Clock;
  readonly #rings: (alarm: number) => void;
  #set = 0;

  /** @param rings gets the alarm's number: they are counted as they are set, from 1 on */
  constructor(inner: Clock, rings: (alarm: number) => void) {
    this.#inner = inner;
    this.#rings = rings;
  }

  get nowNs(): number {
    return this.#inner.nowNs;
  }

  after(delayNs: number, callback: () => void): Alarm {
    const alarm = ++this.#set;
    return this.#inner.after(delayNs, () => {
      this.#rings(alarm);
      callback();
    });
  }

  pause(ns: number): void {
    this.#inner.pause(ns);
  }
}
