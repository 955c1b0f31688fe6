import type { QueueSet } from './queue/queue-set.ts';

export interface PinInterruptsHost {
  /** The host takes interrupts by MSI-X, and leaves the mask alone. */
  readonly usesMsix: boolean;
  raise(vector: number): void;
  /** INTA# goes down. */
  lower(): void;
}

/** Interrupts by pin, and the mask of them (INTMS and INTMC, NVMe 1.4 §3.1.3, §7.5.1). */
export class PinInterrupts {
  readonly #host: PinInterruptsHost;
  readonly #queues: QueueSet;
  /** Vectors 0 to 31 that the host has masked. */
  #mask = 0;

  constructor(host: PinInterruptsHost, queues: QueueSet) {
    this.#host = host;
    this.#queues = queues;
  }

  get mask(): number {
    return this.#mask;
  }

  set mask(mask: number) {
    this.#mask = mask >>> 0;
    if (this.#host.usesMsix) return;
    for (const queue of this.#queues.completions) {
      if (queue.interrupts && queue.unconsumed > 0) this.interrupt(queue.vector);
    }
    this.settle();
  }

  /** The controller was reset. */
  forget(): void {
    this.#mask = 0;
    this.#host.lower();
  }

  interrupt(vector: number): void {
    if (!this.#masked(vector)) this.#host.raise(vector);
  }

  /** INTA# is up as long as a queue that is not masked has entries for the host. */
  settle(): void {
    for (const queue of this.#queues.completions) {
      if (queue.interrupts && queue.unconsumed > 0 && !this.#masked(queue.vector)) return;
    }
    this.#host.lower();
  }

  #masked(vector: number): boolean {
    return vector < 32 && ((this.#mask >>> vector) & 1) !== 0;
  }
}
