import type { Command } from '../command.ts';
import { type Outcome, Status } from '../status.ts';
import type { AdminHost } from './admin-host.ts';
import type { AsyncEvents } from './async-events.ts';
import { BROADCAST_NSID, LogPage } from './capabilities.ts';
import type { ChangedNamespaces } from './log-pages/changed-namespaces.ts';
import { commandEffectsData } from './log-pages/command-effects.ts';
import type { ErrorLog } from './log-pages/error-log.ts';
import { firmwareSlotData } from './log-pages/firmware-slot.ts';
import type { Health } from './log-pages/health.ts';

export interface Logs {
  readonly errors: ErrorLog;
  readonly health: Health;
  readonly changedNamespaces: ChangedNamespaces;
}

/** Get Log Page (NVMe 1.4 §5.14). All logs here are the controller's; none has a specific parameter. */
export class GetLogPage {
  readonly #host: AdminHost;
  readonly #events: AsyncEvents;
  readonly #logs: Logs;

  constructor(host: AdminHost, events: AsyncEvents, logs: Logs) {
    this.#host = host;
    this.#events = events;
    this.#logs = logs;
  }

  execute(command: Command): Outcome {
    const dword10 = command.dword(10);
    const logPage = dword10 & 0xff;
    const retainEvent = (dword10 & (1 << 15)) !== 0;
    const dwords = (command.dword(11) & 0xffff) * 0x1_0000 + (dword10 >>> 16) + 1;
    const offset = command.dword(13) * 2 ** 32 + command.dword(12);

    const page = this.#page(logPage);
    if (page === undefined) return { status: Status.invalidLogPage };
    const { nsid } = command;
    if (nsid !== 0 && nsid !== BROADCAST_NSID) return { status: Status.invalidField };
    if (offset % 4 !== 0 || offset > page.length) return { status: Status.invalidField };
    const length = dwords * 4;
    if (length > this.#host.transferBytesMax) return { status: Status.invalidField };

    const status = this.#host.sendData(command, slice(page, offset, length));
    if (status === Status.success && !retainEvent) {
      if (logPage === LogPage.changedNamespaces) this.#logs.changedNamespaces.clear();
      this.#events.logPageRead(logPage);
    }
    return { status };
  }

  #page(logPage: number): Uint8Array | undefined {
    const { errors, health, changedNamespaces } = this.#logs;
    switch (logPage) {
      case LogPage.errorInformation:
        return errors.data();
      case LogPage.health:
        return health.data(this.#host.uptimeMs, errors.count);
      case LogPage.firmwareSlot:
        return firmwareSlotData();
      case LogPage.changedNamespaces:
        return changedNamespaces.data();
      case LogPage.commandEffects:
        return commandEffectsData(this.#host.shadowDoorbells);
      default:
        return undefined;
    }
  }
}

/** `length` bytes from `offset`: what lies behind the page's end, undefined by §5.14, are zeros. */
function slice(page: Uint8Array, offset: number, length: number): Uint8Array {
  if (offset + length <= page.length) return page.subarray(offset, offset + length);
  const bytes = new Uint8Array(length);
  bytes.set(page.subarray(offset));
  return bytes;
}
