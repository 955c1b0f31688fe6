import { type FunctionInterrupts, type FunctionOptions, PciFunction } from '../../pci/index.ts';
import { type DmaCounters, DmaEngine, type Refusal, type Transfer } from './dma-engine.ts';
import { factorial32 } from './factorial.ts';
import { eduRegisters } from './registers.ts';

/** Causes in the interrupt status register that the device raises by itself. */
const FACTORIAL_DONE = 0x001;
const DMA_DONE = 0x100;

export interface EduOptions extends FunctionOptions {
  /** RAM addresses that the device can give. Default 28 bits, 256 MiB. */
  readonly dmaMask?: bigint;
  /**
   * Nanoseconds that a factorial and a transfer take. Default 0: done on the next turn of the event
   * loop, the busy bit being seen until then. QEMU's edu takes 100 ms for a transfer.
   */
  readonly delayNs?: number;
  /** Sees each transfer that moved its bytes, and the bytes, which are the device's own. */
  readonly onTransfer?: (transfer: Transfer, bytes: Uint8Array) => void;
}

/**
 * edu, the device that QEMU has for those who learn to write drivers (docs/specs/edu.rst): an
 * inverter, a factorial unit, an interrupt controller and a DMA engine.
 *
 * Where it differs from QEMU's: a transfer outside the buffer moves nothing (see {@link DmaEngine}),
 * a reset does reset it, and bits of the DMA command that the specification does not name read 0.
 */
export class Edu extends PciFunction {
  static override readonly id = {
    vendor: 0x1234,
    device: 0x11e8,
    class: 0x00ff00,
    revision: 0x10,
    subsystemVendor: 0x1af4,
    subsystem: 0x1100,
  };
  static override readonly interrupts: FunctionInterrupts = { intx: true, msi: 1 };
  static override readonly express = false;

  readonly bar0 = eduRegisters({
    invert: (value) => this.#invert(value),
    startFactorial: () => this.#startFactorial(),
    isComputing: () => this.bar0.status.computing,
    raise: (causes) => this.#raise(causes),
    acknowledge: (causes) => this.#acknowledge(causes),
    startDma: () => this.#startDma(),
    isTransferring: () => this.#transferring,
  });

  readonly #engine: DmaEngine;
  readonly #delayNs: number;
  #transferring = false;

  constructor(options: EduOptions = {}) {
    super(options);
    this.#engine = new DmaEngine(options.dmaMask ?? (1n << 28n) - 1n, options.onTransfer);
    this.#delayNs = options.delayNs ?? 0;
  }

  /** The DMA buffer's 4096 bytes, for those who watch the device. */
  get buffer(): Uint8Array {
    return this.#engine.buffer;
  }

  get dmaCounters(): Readonly<DmaCounters> {
    return this.#engine.counters;
  }

  /** Why the last transfer that was refused was. */
  get lastRefusal(): Refusal | undefined {
    return this.#engine.lastRefusal;
  }

  protected override onReset(): void {
    this.#transferring = false;
    this.#engine.reset();
  }

  #invert(value: number): void {
    this.bar0.liveness = ~value >>> 0;
  }

  #startFactorial(): void {
    const { status } = this.bar0;
    status.computing = true;
    this.clock.after(this.#delayNs, () => {
      const product = factorial32(this.bar0.factorial);
      this.complete(() => {
        this.bar0.factorial = product;
        status.computing = false;
        if (status.interruptWhenComputed) this.#raise(FACTORIAL_DONE);
      });
    });
  }

  #startDma(): void {
    const {
      dmaCommand,
      dmaSource: source,
      dmaDestination: destination,
      dmaCount: count,
    } = this.bar0;
    this.#transferring = true;
    this.clock.after(this.#delayNs, () => {
      this.#engine.run({ toRam: dmaCommand.toRam, source, destination, count }, this.dma);
      this.complete(() => {
        this.#transferring = false;
        dmaCommand.start = false;
        if (dmaCommand.interruptWhenDone) this.#raise(DMA_DONE);
      });
    });
  }

  #raise(causes: number): void {
    this.bar0.interruptStatus = (this.bar0.interruptStatus | causes) >>> 0;
    if (this.bar0.interruptStatus !== 0) this.interrupt.raise();
  }

  #acknowledge(causes: number): void {
    this.bar0.interruptStatus = (this.bar0.interruptStatus & ~causes) >>> 0;
    if (this.bar0.interruptStatus === 0) this.interrupt.lower();
  }
}
