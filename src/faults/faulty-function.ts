import type { Clock } from '../pci/clock.ts';
import type { PciEndpoint, PciLink, ResetCause } from '../pci/endpoint.ts';
import { relayedLink } from '../pci/relayed-link.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import { CompletionSite } from './completion-faults.ts';
import { DelayLine } from './delay-line.ts';
import { DmaSite } from './dma-faults.ts';
import type { AnyArmed } from './fault.ts';
import type { FaultSite, Halt } from './fault-site.ts';
import type { FunctionHost } from './function-host.ts';
import { InterruptSite } from './interrupt-faults.ts';
import type { IommuSite } from './iommu-faults.ts';
import { RegisterSite } from './register-faults.ts';

export interface FaultyFunctionOptions {
  readonly rid: RequesterId;
  /** The function itself, under all that stands around it. */
  readonly device: PciEndpoint;
  readonly clock: Clock;
  /** Its DMA on the way through the IOMMU. */
  readonly iommu: IommuSite;
}

/** Stands around a function and has a place for each kind of fault between it and its transport. */
export class FaultyFunction implements PciEndpoint, FunctionHost {
  readonly identity: PciEndpoint['identity'];
  readonly express: boolean;
  readonly capabilities: PciEndpoint['capabilities'];
  readonly bars: PciEndpoint['bars'];
  readonly interruptVectors: PciEndpoint['interruptVectors'];
  readonly rid: RequesterId;
  readonly device: PciEndpoint;
  readonly #inner: PciEndpoint;
  readonly #delays: DelayLine;
  readonly #registers: RegisterSite;
  readonly #interrupts: InterruptSite;
  readonly #dma: DmaSite;
  readonly #completions: CompletionSite;
  readonly #sites: readonly Pick<FaultSite<never>, 'arm' | 'disarm' | 'halt'>[];
  #link: PciLink | undefined;
  #halted: Halt | undefined;

  constructor(inner: PciEndpoint, options: FaultyFunctionOptions) {
    this.identity = inner.identity;
    this.express = inner.express;
    this.capabilities = inner.capabilities;
    this.bars = inner.bars;
    this.interruptVectors = inner.interruptVectors;
    this.rid = options.rid;
    this.device = options.device;
    this.#inner = inner;
    this.#delays = new DelayLine(options.clock);
    this.#registers = new RegisterSite(inner, this);
    this.#interrupts = new InterruptSite(this.rid, this.#delays);
    this.#dma = new DmaSite(this, this.#delays);
    this.#completions = new CompletionSite(this.rid, this.#delays);
    this.#sites = [
      ...[this.#registers, this.#interrupts, this.#dma, this.#completions],
      options.iommu,
    ];
  }

  /** @throws RangeError where the fault does not fit this function */
  arm(fault: AnyArmed): void {
    for (const site of this.#sites) site.arm(fault);
  }

  disarm(fault: AnyArmed): void {
    for (const site of this.#sites) site.disarm(fault);
  }

  /** Nothing that was put off happens any more. */
  end(): void {
    this.#delays.clear();
  }

  plug(link: PciLink): void {
    this.#link = link;
    this.#interrupts.plug(link.interrupts);
    this.#dma.plug(link.dma);
    this.#inner.plug(
      relayedLink(link, {
        ...{ dma: this.#dma, interrupts: this.#interrupts, completions: this.#completions },
      }),
    );
  }

  readBar(bar: number, offset: number, into: Uint8Array): void {
    this.#registers.readBar(bar, offset, into);
  }

  writeBar(bar: number, offset: number, from: Uint8Array): void {
    this.#registers.writeBar(bar, offset, from);
  }

  /** One that is not there is reached by no reset; one that is stalled begins anew. */
  reset(cause: ResetCause): void {
    if (this.#halted === 'removed') return;
    this.#delays.clear();
    this.#completions.reset();
    this.#halt(undefined);
    this.#inner.reset(cause);
    this.#interrupts.reset();
  }

  resetFromOutside(cause: ResetCause): void {
    const place = this.#link?.place;
    if (place === undefined) this.reset(cause);
    else place.reset(cause);
  }

  stall(): void {
    this.#delays.clear();
    this.#halt('stalled');
  }

  /** It loses its power: all that it was doing ends, and it will begin anew. */
  remove(): void {
    this.resetFromOutside('connection-lost');
    this.#halt('removed');
    this.#link?.place?.setPresent(false);
  }

  /** The device's code was told that a reset had ended its work (HaltAbort): now there is one. */
  heal(): void {
    if (this.#halted === undefined) return;
    if (this.#halted === 'removed') this.#link?.place?.setPresent(true);
    this.#halt(undefined);
    this.resetFromOutside('device');
  }

  #halt(halted: Halt | undefined): void {
    if (this.#halted === halted) return;
    this.#halted = halted;
    for (const site of this.#sites) site.halt(halted);
  }
}
