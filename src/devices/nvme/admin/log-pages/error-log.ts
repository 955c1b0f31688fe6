import type { Status } from '../../status.ts';

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

/** Error Information (log 01h), newest first. */
export class ErrorLog {
  /** Since power-on. */
  count = 0n;

  record(_error: CommandError): void {}
}
