import { close, eventfd, read } from '../../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../../ffi/poll.ts';

export interface InterruptEventOptions {
  /** Names it in errors. Default 'interrupt'. */
  readonly name?: string;
  /** For each wait. Default 5000. */
  readonly timeoutMs?: number;
  /** What may be said about one that did not come. */
  readonly why?: () => string | undefined;
}

interface Waiter {
  readonly count: number;
  resolve(): void;
  reject(error: Error): void;
}

/** One interrupt as the VMM gets it: an eventfd that counts. */
export class InterruptEvent implements Disposable {
  readonly descriptor = eventfd();
  readonly name: string;
  readonly #timeoutMs: number;
  readonly #why: () => string | undefined;
  readonly #value = new BigUint64Array(new ArrayBuffer(8));
  readonly #bytes = new Uint8Array(this.#value.buffer);
  readonly #waiters = new Set<Waiter>();
  /** Only while somebody waits: most interrupts of a test are never waited for. */
  #watch: ReadableWatch | undefined;
  #count = 0;
  #awaited = 0;
  #ended: Error | undefined;
  #disposed = false;

  constructor(options: InterruptEventOptions = {}) {
    this.name = options.name ?? 'interrupt';
    this.#timeoutMs = options.timeoutMs ?? 5000;
    this.#why = options.why ?? (() => undefined);
  }

  /** Signals since the start. */
  get count(): number {
    this.#take();
    return this.#count;
  }

  /**
   * Waits for one more than all calls before it did: it resolves at once where that one has come
   * already. @throws Error after `timeoutMs`, and when the connection ends: then it counts for nothing
   */
  async next(timeoutMs?: number): Promise<void> {
    const count = ++this.#awaited;
    try {
      await this.reach(count, timeoutMs);
    } catch (error) {
      this.#awaited--;
      throw error;
    }
  }

  /** Waits until there have been `count` since the start. @throws as {@link next} */
  async reach(count: number, timeoutMs = this.#timeoutMs): Promise<void> {
    if (this.count < count) await this.#wait(count, timeoutMs);
    this.#awaited = Math.max(this.#awaited, count);
  }

  /** Nothing will come any more: all who wait are told why, and all who ask later. */
  end(why: Error): void {
    this.#ended ??= why;
    for (const waiter of [...this.#waiters]) waiter.reject(why);
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.end(new Error(`${this.name} has been disposed of`));
    this.#watch?.close();
    close(this.descriptor);
  }

  #wait(count: number, timeoutMs: number): Promise<void> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    return new Promise<void>((resolve, reject) => {
      const settle = (error?: Error) => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        if (this.#waiters.size === 0) this.#watch?.pause();
        if (error === undefined) resolve();
        else reject(error);
      };
      const waiter: Waiter = { count, resolve: () => settle(), reject: settle };
      const timer = setTimeout(() => settle(this.#late(count, timeoutMs)), timeoutMs);
      this.#waiters.add(waiter);
      if (this.#watch === undefined) {
        this.#watch = watchReadable(this.descriptor, () => this.#take());
      } else {
        this.#watch.resume();
      }
    });
  }

  #late(count: number, timeoutMs: number): Error {
    const got = this.count === 0 ? 'none' : String(this.#count);
    const why = this.#why();
    return new Error(
      `expected ${count === 1 ? '' : `${count} of `}${this.name} within ${timeoutMs} ms, got ${got}` +
        (why === undefined ? '' : `; ${why}`),
    );
  }

  #take(): void {
    if (this.#disposed) return;
    const got = read(this.descriptor, this.#bytes);
    if (got === undefined) return;
    this.#count += Number(this.#value[0]);
    for (const waiter of [...this.#waiters]) if (this.#count >= waiter.count) waiter.resolve();
  }
}
