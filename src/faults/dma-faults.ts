import {
  DmaAbort,
  type DmaAccess,
  type DmaDirection,
  type DmaPort,
  type Iova,
} from '../pci/dma-port.ts';
import { ResetAbort } from '../pci/epoch.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { DelayLine } from './delay-line.ts';
import { type AnyArmed, type ArmedOf, faultOn, firstDue } from './fault.ts';
import { FaultSite } from './fault-site.ts';
import type { FunctionHost } from './function-host.ts';
import { HaltAbort } from './halt-abort.ts';
import { milliseconds } from './parameter.ts';
import { type ArmedReset, resetFaults } from './reset-faults.ts';

/** A DMA that a function makes; one access of a batch. */
export interface DmaMade {
  readonly rid: RequesterId;
  readonly direction: DmaDirection;
  readonly iova: Iova;
  /** Bytes. */
  readonly length: number;
}

export const dmaFaults = {
  'dma.delay': faultOn<DmaMade>()({
    says: 'A DMA that the device awaits takes long.',
    occasion: 'each awaited DMA',
    parameters: { ms: milliseconds('how long', 10) },
  }),
};

type ArmedDelay = ArmedOf<typeof dmaFaults>;

/** DMA on its way from a function to its port. */
export class DmaSite extends FaultSite<ArmedDelay | ArmedReset> implements DmaPort {
  readonly rid: RequesterId;
  readonly #host: FunctionHost;
  readonly #delays: DelayLine;
  #port: DmaPort | undefined;
  #delaying: readonly ArmedDelay[] = [];
  #resetting: readonly ArmedReset[] = [];

  constructor(host: FunctionHost, delays: DelayLine) {
    super();
    this.rid = host.rid;
    this.#host = host;
    this.#delays = delays;
  }

  plug(port: DmaPort): void {
    this.#port = port;
  }

  get maxBytes(): number {
    return this.#plugged.maxBytes;
  }

  readInto(iova: Iova, into: Uint8Array): void {
    if (this.active && this.#resetDuring('read', iova, into.length)) {
      const part = into.subarray(0, half(into.length));
      this.#resetAfter(part.length, () => this.#plugged.readInto(iova, part));
    }
    this.#plugged.readInto(iova, into);
  }

  writeFrom(iova: Iova, from: Uint8Array): void {
    if (this.active && this.#resetDuring('write', iova, from.length)) {
      const part = from.subarray(0, half(from.length));
      this.#resetAfter(part.length, () => this.#plugged.writeFrom(iova, part));
    }
    this.#plugged.writeFrom(iova, from);
  }

  readBatch(accesses: readonly DmaAccess[], count: number): number {
    if (this.active && this.#resetDuringBatch('read', accesses, count)) {
      this.#resetAfter(half(count), (part) => this.#plugged.readBatch(accesses, part));
    }
    return this.#plugged.readBatch(accesses, count);
  }

  writeBatch(accesses: readonly DmaAccess[], count: number): number {
    if (this.active && this.#resetDuringBatch('write', accesses, count)) {
      this.#resetAfter(half(count), (part) => this.#plugged.writeBatch(accesses, part));
    }
    return this.#plugged.writeBatch(accesses, count);
  }

  async read(iova: Iova, length: number): Promise<Uint8Array> {
    if (this.active && this.#resetDuring('read', iova, length)) {
      const part = new Uint8Array(half(length));
      this.#resetAfter(part.length, () => this.#plugged.readInto(iova, part));
    }
    return await this.#plugged.read(iova, length);
  }

  async write(iova: Iova, bytes: Uint8Array): Promise<void> {
    if (this.active && this.#resetDuring('write', iova, bytes.length)) {
      const part = bytes.subarray(0, half(bytes.length));
      this.#resetAfter(part.length, () => this.#plugged.writeFrom(iova, part));
    }
    await this.#plugged.write(iova, bytes);
  }

  latency(direction: DmaDirection, iova: Iova, length: number): Promise<void> | undefined {
    if (!this.active || this.halted !== undefined) return undefined;
    const due = firstDue(this.#delaying, { rid: this.rid, direction, iova, length });
    if (due === undefined) return undefined;
    const { ms } = due.parameters;
    due.struck(`${direction} of ${length} bytes at 0x${iova.toString(16)} after ${ms} ms`);
    return this.#delays.sleep(ms);
  }

  protected override takes(fault: AnyArmed): fault is ArmedDelay | ArmedReset {
    if (fault.name in dmaFaults) return true;
    return fault.name in resetFaults && (fault as ArmedReset).parameters.of === 'dma';
  }

  protected override changed(): void {
    this.#delaying = this.faults.filter((fault) => fault.name === 'dma.delay');
    this.#resetting = this.faults.filter((fault) => fault.name === 'reset.during');
  }

  get #plugged(): DmaPort {
    if (this.#port !== undefined) return this.#port;
    throw new Error('expected a function that is plugged in, got one that has no DMA port yet');
  }

  /** @throws HaltAbort where the function does nothing any more */
  #resetDuring(direction: DmaDirection, iova: Iova, length: number): boolean {
    if (this.halted !== undefined) throw new HaltAbort(this.halted);
    if (this.#resetting.length === 0) return false;
    const due = firstDue(this.#resetting, { rid: this.rid, direction, iova, length });
    due?.struck(`in a DMA ${direction} of ${length} bytes at 0x${iova.toString(16)}`);
    return due !== undefined;
  }

  /** Each access is an occasion, also those after one that is struck. @throws HaltAbort */
  #resetDuringBatch(
    direction: DmaDirection,
    accesses: readonly DmaAccess[],
    count: number,
  ): boolean {
    let met = false;
    for (let at = 0; at < count; at++) {
      const { iova, bytes } = accesses[at] as DmaAccess;
      if (this.#resetDuring(direction, iova, bytes.length)) met = true;
    }
    return met;
  }

  /**
   * Does the first part of the work, if that is any, and resets the function. The device's own code is
   * in the middle of it: it is told as of any reset. @throws ResetAbort
   */
  #resetAfter(part: number, run: (part: number) => unknown): never {
    try {
      if (part > 0) run(part);
    } catch (error) {
      // Refused, so that nothing has moved; the reset comes all the same.
      if (!(error instanceof DmaAbort)) throw error;
    }
    this.#host.resetFromOutside('function-level');
    throw new ResetAbort('function-level');
  }
}

function half(count: number): number {
  return Math.floor(count / 2);
}
