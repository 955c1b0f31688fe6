import type { Alarm, Clock } from './clock.ts';
import type { DmaAccess, DmaPort, Iova } from './dma-port.ts';
import type { ResetCause } from './endpoint.ts';
import type { RequesterId } from './requester-id.ts';

/**
 * Work that a reset ended: what a device awaits of its DMA port or its clock is rejected with this,
 * and a port that it kept from before throws it. Nothing of that work reaches the guest any more.
 */
export class ResetAbort extends Error {
  override readonly name = 'ResetAbort';
  readonly resetCause: ResetCause | 'driver';

  constructor(resetCause: ResetCause | 'driver') {
    super(`ended by a ${resetCause} reset of the function`);
    this.resetCause = resetCause;
  }
}

/** Alarms that one function may have pending at once. */
const ALARMS_MAX = 65536;

/**
 * The time from one reset of a function to the next. DMA, alarms and promises belong to the epoch
 * in which they began and end with it.
 */
export class Epoch {
  readonly dma: DmaPort;
  readonly clock: EpochClock;
  #ended: ResetAbort | undefined;
  #controller: AbortController | undefined;

  constructor(dma: DmaPort, clock: Clock) {
    this.dma = new EpochDmaPort(this, dma);
    this.clock = new EpochClock(this, clock);
  }

  get ended(): ResetAbort | undefined {
    return this.#ended;
  }

  /** Aborted when the epoch ends, with its {@link ResetAbort} as the reason. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#ended !== undefined) this.#controller.abort(this.#ended);
    return this.#controller.signal;
  }

  /** @throws ResetAbort where the epoch is over. */
  check(): void {
    if (this.#ended !== undefined) throw this.#ended;
  }

  /** Waits for it. @throws ResetAbort where the epoch is over by then. */
  async after(what: Promise<void>): Promise<void> {
    await what;
    this.check();
  }

  end(cause: ResetCause | 'driver'): void {
    if (this.#ended !== undefined) return;
    this.#ended = new ResetAbort(cause);
    this.clock.end(this.#ended);
    this.#controller?.abort(this.#ended);
  }
}

/** The function's port, for as long as the epoch lasts. */
class EpochDmaPort implements DmaPort {
  readonly rid: RequesterId;
  readonly maxBytes: number;
  readonly #epoch: Epoch;
  readonly #port: DmaPort;

  constructor(epoch: Epoch, port: DmaPort) {
    this.rid = port.rid;
    this.maxBytes = port.maxBytes;
    this.#epoch = epoch;
    this.#port = port;
  }

  readInto(iova: Iova, into: Uint8Array): void {
    this.#epoch.check();
    this.#port.readInto(iova, into);
  }

  writeFrom(iova: Iova, from: Uint8Array): void {
    this.#epoch.check();
    this.#port.writeFrom(iova, from);
  }

  readBatch(accesses: readonly DmaAccess[], count: number): number {
    this.#epoch.check();
    return this.#port.readBatch(accesses, count);
  }

  writeBatch(accesses: readonly DmaAccess[], count: number): number {
    this.#epoch.check();
    return this.#port.writeBatch(accesses, count);
  }

  async read(iova: Iova, length: number): Promise<Uint8Array> {
    this.#epoch.check();
    const latency = this.#port.latency?.('read', iova, length);
    if (latency !== undefined) await this.#epoch.after(latency);
    try {
      return await this.#port.read(iova, length);
    } finally {
      this.#epoch.check();
    }
  }

  async write(iova: Iova, bytes: Uint8Array): Promise<void> {
    this.#epoch.check();
    const latency = this.#port.latency?.('write', iova, bytes.length);
    if (latency !== undefined) await this.#epoch.after(latency);
    try {
      await this.#port.write(iova, bytes);
    } finally {
      this.#epoch.check();
    }
  }
}

/** A clock whose alarms never ring after the epoch. */
export class EpochClock implements Clock {
  readonly #epoch: Epoch;
  readonly #clock: Clock;
  readonly #pending = new Map<Alarm, ((reason: ResetAbort) => void) | undefined>();
  #onThrow: (error: unknown) => void = (error) => {
    throw error;
  };
  #onStart: (work: PromiseLike<unknown>) => void = () => undefined;

  constructor(epoch: Epoch, clock: Clock) {
    this.#epoch = epoch;
    this.#clock = clock;
  }

  get nowNs(): number {
    return this.#clock.nowNs;
  }

  /** Who hears of a callback that throws. */
  set onThrow(handler: (error: unknown) => void) {
    this.#onThrow = handler;
  }

  /** Who watches over the promise of an asynchronous callback. */
  set onStart(handler: (work: PromiseLike<unknown>) => void) {
    this.#onStart = handler;
  }

  /** @throws ResetAbort where the epoch is over; Error where 65536 alarms are pending. */
  after(delayNs: number, callback: () => void): Alarm {
    return this.#set(delayNs, callback, undefined);
  }

  /** Resolves after `delayNs` nanoseconds. @throws ResetAbort (the promise rejects) */
  async sleep(delayNs: number): Promise<void> {
    await new Promise<void>((resolve, reject) => this.#set(delayNs, resolve, reject));
    this.#epoch.check();
  }

  pause(ns: number): void {
    this.#clock.pause(ns);
  }

  end(reason: ResetAbort): void {
    for (const [alarm, reject] of this.#pending) {
      alarm.cancel();
      reject?.(reason);
    }
    this.#pending.clear();
  }

  #set(
    delayNs: number,
    callback: () => unknown,
    reject: ((reason: ResetAbort) => void) | undefined,
  ): Alarm {
    this.#epoch.check();
    if (this.#pending.size >= ALARMS_MAX) {
      throw new Error(`${ALARMS_MAX} alarms of the function are pending: a device bug`);
    }
    const inner = this.#clock.after(delayNs, () => {
      this.#pending.delete(alarm);
      try {
        const result = callback();
        if (result instanceof Promise) this.#onStart(result);
      } catch (error) {
        this.#onThrow(error);
      }
    });
    const alarm: Alarm = {
      cancel: () => {
        if (this.#pending.delete(alarm)) inner.cancel();
      },
    };
    this.#pending.set(alarm, reject);
    return alarm;
  }
}
