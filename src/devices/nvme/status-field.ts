import { Status } from './status.ts';

const DO_NOT_RETRY = 1 << 14;
const MORE = 1 << 13;

/** What another try of the same command may well get past. */
const PASSING: ReadonlySet<Status> = new Set([
  Status.dataTransferError,
  Status.abortedPowerLoss,
  Status.internalError,
  Status.abortRequested,
  Status.abortedSqDeletion,
  Status.namespaceNotReady,
  Status.formatInProgress,
  Status.abortLimitExceeded,
  Status.asyncEventLimitExceeded,
  Status.writeFault,
  Status.unrecoveredRead,
]);

/**
 * Bits 31:17 of a completion's last dword (NVMe 1.4 §4.6.1): the status with Do Not Retry where the
 * host would only get the same again, and More where the error log has an entry.
 */
export function statusField(status: Status, more = false): number {
  if (status === Status.success) return 0;
  return status | (PASSING.has(status) ? 0 : DO_NOT_RETRY) | (more ? MORE : 0);
}
