import type { Command } from '../command.ts';
import { type Outcome, Status } from '../status.ts';
import type { AdminAnswer, AdminHost } from './admin-host.ts';
import { EVENT_REQUESTS_MAX } from './capabilities.ts';

/** Asynchronous Event Type: NVMe 1.4 §5.2.1, dword 0 bits 2:0. */
export const EventType = { error: 0, smart: 1, notice: 2, ioCommandSet: 6, vendor: 7 } as const;
export type EventType = (typeof EventType)[keyof typeof EventType];

/** Error Status; the log page is 01h. */
export const ErrorEvent = {
  invalidDoorbellRegister: 0,
  invalidDoorbellValue: 1,
  diagnosticFailure: 2,
  persistentInternalError: 3,
  transientInternalError: 4,
  firmwareImageLoad: 5,
} as const;

/** SMART / Health Status; the log page is 02h. */
export const SmartEvent = { reliability: 0, temperature: 1, spare: 2 } as const;

/** Notice; the log page is 04h. */
export const NoticeEvent = { namespaceAttributes: 0 } as const;

/** Asynchronous Event Configuration (feature 0Bh), §5.21.1.11: what can be enabled here. */
export const EventConfiguration = {
  /** Bits of the SMART log's critical warning. */
  criticalWarnings: 0x1f,
  namespaceAttributes: 1 << 8,
} as const;

/** Events kept for a host that has no request outstanding; what comes above is dropped and counted. */
const PENDING_MAX = 16;

interface AsyncEvent {
  readonly type: EventType;
  readonly info: number;
  readonly logPage: number;
}

/**
 * Asynchronous Event Request (NVMe 1.4 §5.2): requests wait here until there is an event to tell.
 *
 * Once an event was told, its type is masked until the host has read the event's log page with Retain
 * Asynchronous Event clear (§5.14). That also takes back what waits behind the mask with the same
 * log page, as the host knows it now: but not errors, whose information is in the event alone.
 */
export class AsyncEvents {
  readonly #host: AdminHost;
  readonly #requests: number[] = [];
  readonly #pending: AsyncEvent[] = [];
  /** By event type. */
  readonly #masked = new Map<EventType, AsyncEvent>();
  #configuration = 0;
  /** Events that found no room to wait. */
  dropped = 0;

  constructor(host: AdminHost) {
    this.#host = host;
  }

  /** Feature 0Bh, as the host set it. */
  get configuration(): number {
    return this.#configuration;
  }

  set configuration(value: number) {
    this.#configuration = value;
    for (let i = this.#pending.length - 1; i >= 0; i--) {
      if (!this.#enabled(this.#pending[i]!)) this.#pending.splice(i, 1);
    }
  }

  /**
   * Tells the host of an event as soon as it has a request outstanding and the type is not masked.
   * An event that waits already, or that the host did not enable, is dropped.
   */
  raise(type: EventType, info: number, logPage: number): void {
    const event: AsyncEvent = { type, info, logPage };
    if (!this.#enabled(event) || this.#pending.some((other) => isSame(other, event))) return;
    if (this.#pending.length === PENDING_MAX) {
      this.dropped++;
      return;
    }
    this.#pending.push(event);
    this.#deliver();
  }

  /** An Asynchronous Event Request: answered at once where an event waits. */
  request(command: Command): AdminAnswer {
    if (this.#requests.length === EVENT_REQUESTS_MAX) {
      return { status: Status.asyncEventLimitExceeded };
    }
    const event = this.#takeDeliverable();
    if (event !== undefined) return this.#tell(event);
    this.#requests.push(command.cid);
    return 'pending';
  }

  /** Ends the outstanding request `cid` with Command Abort Requested; whether there was one. */
  abort(cid: number): boolean {
    const index = this.#requests.indexOf(cid);
    if (index === -1) return false;
    this.#requests.splice(index, 1);
    this.#host.complete(cid, { status: Status.abortRequested });
    return true;
  }

  /** The host has read the log page with Retain Asynchronous Event clear. */
  logPageRead(logPage: number): void {
    for (const [type, told] of this.#masked) {
      if (told.logPage === logPage) this.#masked.delete(type);
    }
    for (let i = this.#pending.length - 1; i >= 0; i--) {
      const { type, logPage: its } = this.#pending[i]!;
      if (its === logPage && type !== EventType.error) this.#pending.splice(i, 1);
    }
    this.#deliver();
  }

  /** Controller level reset: requests are forgotten without a completion, events and masks too. */
  reset(): void {
    this.#requests.length = 0;
    this.#pending.length = 0;
    this.#masked.clear();
    this.#configuration = 0;
  }

  #enabled({ type, info }: AsyncEvent): boolean {
    const { criticalWarnings, namespaceAttributes } = EventConfiguration;
    if (type === EventType.notice && info === NoticeEvent.namespaceAttributes) {
      return (this.#configuration & namespaceAttributes) !== 0;
    }
    // Which of the warnings the host wants is for the health log to say, which knows them.
    if (type === EventType.smart) return (this.#configuration & criticalWarnings) !== 0;
    return true;
  }

  #deliver(): void {
    while (this.#requests.length > 0) {
      const event = this.#takeDeliverable();
      if (event === undefined) return;
      this.#host.complete(this.#requests.shift()!, this.#tell(event));
    }
  }

  #takeDeliverable(): AsyncEvent | undefined {
    const index = this.#pending.findIndex(({ type }) => !this.#masked.has(type));
    return index === -1 ? undefined : this.#pending.splice(index, 1)[0];
  }

  /** Masks the event's type. Completion dword 0: log page 23:16, information 15:8, type 2:0. */
  #tell(event: AsyncEvent): Outcome {
    this.#masked.set(event.type, event);
    return {
      status: Status.success,
      dword0: (event.logPage << 16) | (event.info << 8) | event.type,
    };
  }
}

function isSame(a: AsyncEvent, b: AsyncEvent): boolean {
  return a.type === b.type && a.info === b.info && a.logPage === b.logPage;
}
