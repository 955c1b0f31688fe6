import type { Command } from '../command.ts';
import type { Outcome } from '../status.ts';
import type { AdminAnswer, AdminHost } from './admin-host.ts';

/** Asynchronous Event Type: NVMe 1.4 §5.2.1, Figure 146, dword 0 bits 2:0. */
export const EventType = { error: 0, smart: 1, notice: 2, ioCommandSet: 6, vendor: 7 } as const;
export type EventType = (typeof EventType)[keyof typeof EventType];

/** Asynchronous Event Request (NVMe 1.4 §5.2). */
export class AsyncEvents {
  constructor(_host: AdminHost) {}

  /** Tells the host of an event as soon as it has a request outstanding and the type is not masked. */
  raise(_type: EventType, _info: number, _logPage: number): void {}

  /** Ends the outstanding request `cid` with Command Abort Requested; whether there was one. */
  abort(_cid: number): boolean {
    return false;
  }

  request(_command: Command): AdminAnswer {
    return 'pending' satisfies AdminAnswer | Outcome;
  }

  reset(): void {}
}
