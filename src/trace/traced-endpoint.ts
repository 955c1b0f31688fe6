import type { Clock } from '../pci/clock.ts';
import type {
  InterruptLink,
  PciEndpoint,
  PciLink,
  ResetCause,
  UnmodelledAccess,
} from '../pci/endpoint.ts';
import type { Journal } from './journal.ts';
import { RecordedAccess, RecordedEvent, type Untimed } from './recorded.ts';
import type { RegisterNames } from './register-names.ts';
import { TracedClock } from './traced-clock.ts';
import { Turn } from './turn.ts';

/** Longest words of a device's error that are kept. */
const MESSAGE_CHARACTERS_MAX = 500;

/** Stands around a function and records what passes between it and its transport. */
export class TracedEndpoint implements PciEndpoint {
  readonly identity: PciEndpoint['identity'];
  readonly express: boolean;
  readonly capabilities: PciEndpoint['capabilities'];
  readonly bars: PciEndpoint['bars'];
  readonly interruptVectors: PciEndpoint['interruptVectors'];
  readonly #inner: PciEndpoint;
  readonly #names: RegisterNames;
  readonly #journal: Journal;
  readonly #alarms: boolean;
  readonly #turn = new Turn();
  #clock: TracedClock | undefined;

  /** @param alarms whether to record when those of the function's clock ring */
  constructor(inner: PciEndpoint, names: RegisterNames, journal: Journal, alarms: boolean) {
    this.identity = inner.identity;
    this.express = inner.express;
    this.capabilities = inner.capabilities;
    this.bars = inner.bars;
    this.interruptVectors = inner.interruptVectors;
    this.#inner = inner;
    this.#names = names;
    this.#journal = journal;
    this.#alarms = alarms;
  }

  plug(link: PciLink): void {
    const { rid } = this.#names;
    const record = (event: Untimed) => {
      this.#journal.add(new RecordedEvent(this.#journal.now(), event));
    };
    this.#inner.plug({
      ...link,
      interrupts: new TracedInterrupts(link.interrupts, rid, record),
      unmodelled: (access: UnmodelledAccess) => {
        record({ kind: 'unmodelled', rid, ...access });
        link.unmodelled(access);
      },
      fault: (error: Error) => {
        const message = error.message.slice(0, MESSAGE_CHARACTERS_MAX);
        record({ kind: 'device-error', rid, message });
        link.fault(error);
      },
      clock: (own: Clock) => {
        const clock = link.clock?.(own) ?? own;
        if (!this.#alarms) return clock;
        this.#clock ??= new TracedClock(clock, (alarm) => record({ kind: 'alarm', rid, alarm }));
        return this.#clock;
      },
    });
  }

  readBar(bar: number, offset: number, into: Uint8Array): void {
    const access = this.#access('read', bar, offset, into.length);
    try {
      this.#inner.readBar(bar, offset, into);
    } catch (error) {
      // As the transport answers then.
      into.fill(0xff);
      throw error;
    } finally {
      access.carries(into);
      access.ends(this.#journal.now());
    }
  }

  writeBar(bar: number, offset: number, from: Uint8Array): void {
    const access = this.#access('write', bar, offset, from.length);
    access.carries(from);
    try {
      this.#inner.writeBar(bar, offset, from);
    } finally {
      access.ends(this.#journal.now());
    }
  }

  reset(cause: ResetCause): void {
    const { rid } = this.#names;
    const turn = this.#turn.goesOn() ? ({ sameTurn: true } as const) : {};
    const event = { kind: 'reset', rid, cause, ...turn } as const;
    this.#journal.add(new RecordedEvent(this.#journal.now(), event));
    this.#inner.reset(cause);
  }

  #access(direction: 'read' | 'write', bar: number, offset: number, width: number) {
    const journal = this.#journal;
    const access = new RecordedAccess(journal.now(), this.#names, direction, bar, offset, width);
    access.sameTurn = this.#turn.goesOn();
    journal.add(access);
    return access;
  }
}

/** Interrupts on their way out, and what the function was told of the guest's choice. */
class TracedInterrupts implements InterruptLink {
  readonly #inner: InterruptLink;
  readonly #rid: string;
  readonly #record: (event: Untimed) => void;
  #mode: ReturnType<InterruptLink['enabled']> = 'none';
  #asserted = false;

  constructor(inner: InterruptLink, rid: string, record: (event: Untimed) => void) {
    this.#inner = inner;
    this.#rid = rid;
    this.#record = record;
  }

  enabled(): ReturnType<InterruptLink['enabled']> {
    const mode = this.#inner.enabled();
    if (mode !== this.#mode) {
      this.#mode = mode;
      this.#record({ kind: 'interrupt-mode', rid: this.#rid, mode });
    }
    return mode;
  }

  /** One that the guest has not enabled goes nowhere and is no event. */
  message(vector: number): void {
    const how = this.#inner.enabled();
    if (how === 'msi' || how === 'msi-x') {
      this.#record({ kind: 'interrupt', rid: this.#rid, how, vector });
    }
    this.#inner.message(vector);
  }

  /** An event where the level changes. */
  intx(asserted: boolean): void {
    if (asserted !== this.#asserted) {
      this.#asserted = asserted;
      this.#record({ kind: 'interrupt', rid: this.#rid, how: 'intx', asserted });
    }
    this.#inner.intx(asserted);
  }
}
