import type { Status } from '../../status.ts';
import { ERROR_LOG_ENTRIES } from '../capabilities.ts';
import { list, nested, structure, u8, u16, u32, u64 } from '../structure.ts';

/** What the controller knows of a command that failed (NVMe 1.4 §5.14.1.1). */
export interface CommandError {
  readonly sqid: number;
  readonly cid: number;
  readonly status: Status;
  /** Byte of the command (bits 7:0) and bit (10:8); FFFFh, the default, where it is none. */
  readonly parameterLocation?: number;
  /** The first block that met the error. */
  readonly lba?: bigint;
  readonly nsid?: number;
}

/** Error Information Log Entry, §5.14.1.1. */
const errorEntry = structure(64, {
  errorCount: u64(0),
  sqid: u16(8),
  cid: u16(10),
  statusField: u16(12),
  parameterErrorLocation: u16(14),
  lba: u64(16),
  nsid: u32(24),
  vendorLog: u8(28),
  transportType: u8(29),
});

const errorLog = structure(64 * ERROR_LOG_ENTRIES, {
  entries: list(nested(0, errorEntry), ERROR_LOG_ENTRIES),
});

const NO_PARAMETER = 0xffff;

interface Entry extends CommandError {
  readonly count: bigint;
}

/** Error Information (log 01h): the last errors, newest first. */
export class ErrorLog {
  /** Oldest first; at most {@link ERROR_LOG_ENTRIES}. */
  readonly #entries: Entry[] = [];
  #count = 0n;

  /** Errors since power-on. */
  get count(): bigint {
    return this.#count;
  }

  record(error: CommandError): void {
    this.#count++;
    if (this.#entries.length === ERROR_LOG_ENTRIES) this.#entries.shift();
    this.#entries.push({ ...error, count: this.#count });
  }

  /** The whole log page. The status is as in a completion, with the phase bit (0) clear. */
  data(): Uint8Array<ArrayBuffer> {
    return errorLog.write({
      entries: this.#entries.toReversed().map((entry) => ({
        errorCount: entry.count,
        sqid: entry.sqid,
        cid: entry.cid,
        statusField: entry.status << 1,
        parameterErrorLocation: entry.parameterLocation ?? NO_PARAMETER,
        lba: entry.lba ?? 0n,
        nsid: entry.nsid ?? 0,
      })),
    });
  }
}
