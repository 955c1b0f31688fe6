import { type Clock, systemClock } from './clock.ts';
import type { CompletionPoint } from './completion.ts';
import { DmaAbort, type DmaPort } from './dma-port.ts';
import type {
  BarWindow,
  PciCapability,
  PciEndpoint,
  PciIdentity,
  PciLink,
  ResetCause,
} from './endpoint.ts';
import { Epoch, type EpochClock, ResetAbort } from './epoch.ts';
import {
  type FunctionClass,
  type FunctionId,
  type FunctionInterrupts,
  type FunctionShape,
  functionShape,
  msixVectors,
} from './function-shape.ts';
import { InterruptLine, MsixVectors } from './interrupts.ts';
import type { RegisterBank } from './register/bank.ts';
import type { RegisterDescription } from './register/description.ts';

export interface FunctionOptions {
  /** Default: the host's monotonic clock. */
  readonly clock?: Clock;
}

/**
 * A PCI function: a device author extends this, says who it is in statics, declares its BARs as
 * `bar0` to `bar5`, and acts in the registers' handlers.
 *
 *     class Adder extends PciFunction {
 *       static override readonly id = { vendor: 0x1b36, device: 0x5eb1, class: 0xff0000 };
 *       static override readonly interrupts = { msix: 1 };
 *       readonly bar0 = memoryBar(4096, { … });
 *     }
 *
 * When a handler throws, or asynchronous work that it started is rejected, the process lives on:
 * - a {@link ResetAbort} is the normal end of work that a reset overtook, and is dropped;
 * - a {@link DmaAbort} that the device did not catch is reported by `link.fault`; it goes on;
 * - anything else is a bug of the device: reported, and the function is {@link failed} until the
 *   next reset, its reads giving all ones and its writes doing nothing, as a device that hangs.
 * The access in which a handler threw reads all ones.
 */
export abstract class PciFunction implements PciEndpoint {
  static readonly id: FunctionId | undefined = undefined;
  static readonly interrupts: FunctionInterrupts = {};
  /** False: a conventional PCI function. Default: PCI Express, with function-level reset. */
  static readonly express: FunctionClass['express'] = true;
  /** BARs that a family of devices declares by a name of its own, and their indices. */
  static readonly barNames: Readonly<Record<string, number>> = {};

  /** The function's MSI-X vectors. */
  protected readonly msix: MsixVectors;
  /** MSI-X, MSI or INTA#, whichever the guest has enabled. */
  protected readonly interrupt: InterruptLine;
  readonly #clock: Clock;
  #shape: FunctionShape | undefined;
  #banks: readonly (RegisterBank | undefined)[] = [];
  #link: PciLink | undefined;
  #epoch: Epoch | undefined;
  #failure: Error | undefined;

  constructor(options: FunctionOptions = {}) {
    const type = this.constructor as typeof PciFunction;
    const link = () => this.#plugged().link.interrupts;
    this.msix = new MsixVectors(msixVectors(type.interrupts.msix), link);
    this.interrupt = new InterruptLine(type.interrupts.intx === true ? 1 : 0, link);
    this.#clock = options.clock ?? systemClock;
  }

  /**
   * The way to guest memory, as this function. It belongs to the time until the next reset: then
   * what was awaited of it is rejected with {@link ResetAbort}, and a port kept from before throws
   * it. @throws Error before plug()
   */
  protected get dma(): DmaPort {
    return this.#plugged().epoch.dma;
  }

  /** The function's time. Alarms and sleeps end with a reset. @throws Error before plug() */
  protected get clock(): EpochClock {
    return this.#plugged().epoch.clock;
  }

  /** Aborted by the next reset. @throws Error before plug() */
  protected get untilReset(): AbortSignal {
    return this.#plugged().epoch.signal;
  }

  /**
   * Capabilities beside those of express and interrupts, such as vendor-specific ones; asked for
   * once, when the BARs are known.
   */
  protected moreCapabilities(): readonly PciCapability[] {
    return [];
  }

  /**
   * Ends what is in flight, as a reset does, and leaves registers and interrupts alone: for a reset
   * that the device's own specification has (virtio's device status, NVMe's CC.EN).
   */
  protected endWork(): void {
    this.#epoch?.end('driver');
    if (this.#link !== undefined) this.#begin(this.#link);
  }

  /**
   * Says that work is done: `say` sets status bits, writes results that are part of it, and raises the
   * interrupt. It runs at once, unless somebody stands in the way of completions (sealbus/faults):
   * then it may run later, twice or never, and not at all once a reset has ended the work.
   */
  protected complete(say: () => void): void {
    const { link, epoch } = this.#plugged();
    const gate = link.completions?.gate;
    if (gate === undefined) {
      say();
      return;
    }
    const deliver = () => {
      if (epoch.ended === undefined) this.#guard(say);
    };
    gate.pass({ queue: 0, name: 'the completion', deliver });
  }

  /** Where completions pass, for a device that has queues of its own for them. */
  protected get completionPoint(): CompletionPoint | undefined {
    return this.#link?.completions;
  }

  /** Has the transport log something that the function has dealt with, such as a bad request. */
  protected report(error: Error): void {
    this.#link?.fault(error);
  }

  /** Once, when the function has been plugged in. */
  protected onPlug(): void {}

  /** After a reset, when registers have their reset values and work in flight is ended. */
  protected onReset(_cause: ResetCause): void {}

  /**
   * Watches over asynchronous work that no handler hands back, so that its failure is dealt with
   * like theirs.
   */
  protected start(work: PromiseLike<unknown>): void {
    const epoch = this.#epoch;
    work.then(undefined, (error: unknown) => this.#threw(error, epoch));
  }

  /** The bug that has stopped it, until the next reset. */
  get failed(): Error | undefined {
    return this.#failure;
  }

  get identity(): PciIdentity {
    return this.#described().identity;
  }

  get express(): boolean {
    return this.#described().express;
  }

  get capabilities(): readonly PciCapability[] {
    return this.#described().capabilities;
  }

  get bars(): readonly (BarWindow | undefined)[] {
    return this.#described().windows;
  }

  get interruptVectors(): { readonly intx: 0 | 1; readonly msi: number; readonly msix: number } {
    return this.#described().vectors;
  }

  get registerMap(): readonly (readonly RegisterDescription[] | undefined)[] {
    return this.#described().plans.map((plan) => plan?.describe());
  }

  /** @throws Error where it is plugged in already; as its shape does where that is wrong. */
  plug(link: PciLink): void {
    if (this.#link !== undefined) throw new Error(`${this.constructor.name} is plugged in already`);
    const shape = this.#described();
    this.#link = link;
    this.#begin(link);
    for (const [bar, plan] of shape.plans.entries()) {
      plan?.bank.attach({
        unmodelled: (offset, width, direction, why) =>
          link.unmodelled({ bar, offset, width, direction, why }),
        started: (work) => this.start(work),
      });
    }
    this.#banks = shape.plans.map((plan) => plan?.bank);
    this.#guard(() => this.onPlug());
  }

  readBar(bar: number, offset: number, into: Uint8Array): void {
    const bank = this.#banks[bar];
    if (bank === undefined || this.#failure !== undefined) {
      this.#absent(bar, offset, into, 'read');
      return;
    }
    try {
      bank.read(offset, into);
    } catch (error) {
      into.fill(0xff);
      this.#threw(error, this.#epoch);
    }
  }

  writeBar(bar: number, offset: number, from: Uint8Array): void {
    const bank = this.#banks[bar];
    if (bank === undefined || this.#failure !== undefined) {
      this.#absent(bar, offset, from, 'write');
      return;
    }
    try {
      bank.write(offset, from);
    } catch (error) {
      this.#threw(error, this.#epoch);
    }
  }

  reset(cause: ResetCause): void {
    this.#epoch?.end(cause);
    if (this.#link !== undefined) {
      this.interrupt.lower();
      this.#begin(this.#link);
    }
    this.#failure = undefined;
    for (const plan of this.#described().plans) plan?.bank.reset();
    this.#guard(() => this.onReset(cause));
  }

  #begin(link: PciLink): void {
    const epoch = new Epoch(link.dma, link.clock?.(this.#clock) ?? this.#clock);
    epoch.clock.onThrow = (error) => this.#threw(error, epoch);
    epoch.clock.onStart = (work) => this.start(work);
    this.#epoch = epoch;
  }

  #plugged(): { readonly link: PciLink; readonly epoch: Epoch } {
    const link = this.#link;
    const epoch = this.#epoch;
    if (link === undefined || epoch === undefined) {
      throw new Error(
        `${this.constructor.name} is not plugged in: its DMA, clock and interrupts work from plug() on`,
      );
    }
    return { link, epoch };
  }

  // Lazily, for a base class's constructor runs before the BARs of the class are there.
  #described(): FunctionShape {
    this.#shape ??= functionShape(
      this.constructor as typeof PciFunction,
      this,
      this.moreCapabilities(),
    );
    return this.#shape;
  }

  #guard(handler: () => void): void {
    try {
      handler();
    } catch (error) {
      this.#threw(error, this.#epoch);
    }
  }

  #absent(bar: number, offset: number, bytes: Uint8Array, direction: 'read' | 'write'): void {
    if (direction === 'read') bytes.fill(this.#failure === undefined ? 0 : 0xff);
    // A failed function has told why once; a BAR without registers holds the MSI-X table.
    if (this.#failure !== undefined) return;
    const why = 'the BAR has no registers';
    this.#link?.unmodelled({ bar, offset, width: bytes.length, direction, why });
  }

  /** Whatever a device's own code throws ends here. `epoch` is the one that it belonged to. */
  #threw(thrown: unknown, epoch: Epoch | undefined): void {
    if (thrown instanceof ResetAbort) return;
    const error =
      thrown instanceof Error ? thrown : new Error(`the device threw ${String(thrown)}`);
    const passing = error instanceof DmaAbort || epoch !== this.#epoch;
    if (!passing) this.#failure ??= error;
    this.#link?.fault(error);
  }
}
