import type { SplitVirtqueue } from './split-virtqueue.ts';

/** Rounds without a break: a driver that fills as fast as we serve must not hold up all others. */
const ROUNDS_MAX = 16;

export interface ServiceHost {
  /** The device author's handler. */
  serve(queue: SplitVirtqueue): unknown;
  /** What the handler threw. Rethrows what is a bug of the device. */
  broken(error: unknown): void;
  /** Watches over a promise that must not be lost. */
  watch(work: Promise<void>): void;
  /** Runs it after others have had their turn; not after a reset. */
  later(callback: () => void): void;
}

/**
 * Runs the handler of one queue, once at a time, for as long as there is something to serve: from
 * one enabling of the queue to its end. A handler of before a reset holds up nothing after it.
 */
export class QueueService {
  readonly #queue: SplitVirtqueue;
  readonly #host: ServiceHost;
  #running = false;
  #again = false;
  #ended = false;
  #rounds = 0;

  constructor(queue: SplitVirtqueue, host: ServiceHost) {
    this.#queue = queue;
    this.#host = host;
  }

  /** The driver says that there is something. */
  wake(): void {
    if (!this.#queue.live) return;
    this.#again = true;
    if (!this.#running) this.#run();
  }

  end(): void {
    this.#ended = true;
  }

  #run(): void {
    this.#running = true;
    while (this.#rounds < ROUNDS_MAX) {
      this.#rounds++;
      this.#again = false;
      this.#queue.beginService();
      let work: unknown;
      try {
        work = this.#host.serve(this.#queue);
      } catch (error) {
        this.#threw(error);
        return;
      }
      if (isThenable(work)) {
        this.#host.watch(this.#await(work));
        return;
      }
      if (!this.#goOn()) return;
    }
    this.#host.later(() => {
      this.#rounds = 0;
      if (!this.#ended) this.#run();
    });
  }

  async #await(work: PromiseLike<unknown>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (this.#ended) throw error;
      this.#threw(error);
      return;
    }
    if (!this.#ended && this.#goOn()) this.#run();
  }

  /** A handler that met a void chain of another queue has lived on: what it left is served later. */
  #threw(error: unknown): void {
    this.#running = false;
    const more = !this.#ended && this.#queue.endService();
    this.#host.broken(error);
    if (!more && !this.#again) return;
    this.#host.later(() => {
      if (!this.#ended) this.wake();
    });
  }

  /** After the handler; false where it rests. */
  #goOn(): boolean {
    if (this.#ended) return false;
    const more = this.#queue.endService();
    // A notification may have come while it ran, and it may have looked before that.
    const goOn = this.#queue.live && (more || this.#again);
    if (!goOn) {
      this.#running = false;
      this.#rounds = 0;
    }
    return goOn;
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value;
}
