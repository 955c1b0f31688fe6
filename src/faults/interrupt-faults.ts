import type { InterruptLink } from '../pci/endpoint.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { DelayLine } from './delay-line.ts';
import { type AnyArmed, type ArmedOf, faultOn, firstDue } from './fault.ts';
import { FaultSite } from './fault-site.ts';
import { milliseconds } from './parameter.ts';

/** An interrupt that a function raises: a message, or INTA# going up. */
export interface RaisedInterrupt {
  readonly rid: RequesterId;
  readonly how: 'message' | 'intx';
  /** Of a message; 0 of INTA#. */
  readonly vector: number;
}

const fault = faultOn<RaisedInterrupt>();
const occasion = 'each interrupt that the function raises';

export const interruptFaults = {
  'interrupt.lose': fault({
    says: 'An interrupt does not arrive.',
    occasion,
    parameters: {},
  }),
  'interrupt.double': fault({
    says: 'An interrupt arrives, and once more without a cause.',
    occasion,
    parameters: { ms: milliseconds('how long after the first', 1) },
  }),
  'interrupt.delay': fault({
    says: 'An interrupt arrives late.',
    occasion,
    parameters: { ms: milliseconds('how late', 10) },
  }),
};

type ArmedInterruptFault = ArmedOf<typeof interruptFaults>;

/** Interrupts on their way from a function to its transport. */
export class InterruptSite extends FaultSite<ArmedInterruptFault> implements InterruptLink {
  readonly #rid: RequesterId;
  readonly #delays: DelayLine;
  #link: InterruptLink | undefined;
  /** INTA#, as the function drives it and as the transport sees it. */
  #driven = false;
  #shown = false;

  constructor(rid: RequesterId, delays: DelayLine) {
    super();
    this.#rid = rid;
    this.#delays = delays;
  }

  plug(link: InterruptLink): void {
    this.#link = link;
  }

  /** A reset of the function lowers INTA#. */
  reset(): void {
    this.#driven = false;
    this.#shown = false;
  }

  protected override takes(fault: AnyArmed): fault is ArmedInterruptFault {
    return fault.name in interruptFaults;
  }

  enabled(): ReturnType<InterruptLink['enabled']> {
    return this.#link?.enabled() ?? 'none';
  }

  message(vector: number): void {
    if (!this.active) {
      this.#link?.message(vector);
      return;
    }
    if (this.halted === undefined) this.#raise('message', vector);
  }

  intx(asserted: boolean): void {
    this.#driven = asserted;
    if (!asserted) this.#show(false);
    else if (!this.active) this.#show(true);
    else if (this.halted === undefined && !this.#shown) this.#raise('intx', 0);
  }

  #raise(how: RaisedInterrupt['how'], vector: number): void {
    const due = firstDue(this.faults, { rid: this.#rid, how, vector });
    const name = how === 'intx' ? 'INTA#' : `vector ${vector}`;
    switch (due?.name) {
      case undefined:
        this.#send(how, vector);
        break;
      case 'interrupt.lose':
        due.struck(`${name} lost`);
        break;
      case 'interrupt.double': {
        const { ms } = due.parameters;
        due.struck(`${name} again after ${ms} ms`);
        this.#send(how, vector);
        this.#later(ms, how, vector);
        break;
      }
      case 'interrupt.delay': {
        const { ms } = due.parameters;
        due.struck(`${name} after ${ms} ms`);
        this.#later(ms, how, vector);
        break;
      }
    }
  }

  #later(ms: number, how: RaisedInterrupt['how'], vector: number): void {
    this.#delays.after(ms, () => {
      if (this.halted !== undefined) return;
      // A level that is up still is shown as a second edge.
      if (how === 'intx') this.#show(false);
      if (how === 'message' || this.#driven) this.#send(how, vector);
    });
  }

  #send(how: RaisedInterrupt['how'], vector: number): void {
    if (how === 'intx') this.#show(true);
    else this.#link?.message(vector);
  }

  #show(asserted: boolean): void {
    this.#shown = asserted;
    this.#link?.intx(asserted);
  }
}
