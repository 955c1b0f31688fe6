import type { ErrorLog } from '../admin/log-pages/error-log.ts';
import type { Health } from '../admin/log-pages/health.ts';
import { Status } from '../status.ts';
import type { IoCommand } from './io-command.ts';
import { IoOpcode } from './io-opcode.ts';

export interface IoAccountsHost {
  readonly health: Health;
  readonly errorLog: ErrorLog;
}

/** What the logs say of I/O commands: the health log (NVMe 1.4 §5.14.1.2), and the error log. */
export class IoAccounts {
  readonly #host: IoAccountsHost;
  #inFlight = 0;
  #busySinceNs = 0;

  constructor(host: IoAccountsHost) {
    this.#host = host;
  }

  /** Commands that have been taken and are not at rest. */
  get inFlight(): number {
    return this.#inFlight;
  }

  began(nowNs: number): void {
    if (this.#inFlight++ === 0) this.#busySinceNs = nowNs;
  }

  /** Its completion is on the way to the host. */
  ended(command: IoCommand, status: Status): void {
    const { health, errorLog } = this.#host;
    if (status === Status.success) {
      const { opcode, length } = command;
      if (opcode === IoOpcode.write) {
        health.writeCommands++;
        health.bytesWritten += length;
      } else if (opcode === IoOpcode.read || opcode === IoOpcode.compare) {
        health.readCommands++;
        health.bytesRead += length;
      }
      return;
    }
    if (status === Status.unrecoveredRead || status === Status.writeFault) health.mediaErrors++;
    errorLog.record({
      sqid: command.queue?.id ?? 0,
      cid: command.cid,
      status,
      lba: (BigInt(command.words[11] as number) << 32n) | BigInt(command.words[10] as number),
      nsid: command.nsid,
    });
  }

  /** It is at rest. */
  rested(nowNs: number): void {
    if (--this.#inFlight === 0) this.#host.health.busyMs += (nowNs - this.#busySinceNs) / 1e6;
  }
}
