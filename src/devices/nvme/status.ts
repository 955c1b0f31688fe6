/**
 * Status of a completion: status code type in bits 10:8, status code in bits 7:0
 * (NVMe 1.4 §4.6.1, Figures 126 to 129). Phase, CRD, M and DNR are the completion's.
 */
export const Status = {
  success: 0x000,
  invalidOpcode: 0x001,
  invalidField: 0x002,
  commandIdConflict: 0x003,
  dataTransferError: 0x004,
  abortedPowerLoss: 0x005,
  internalError: 0x006,
  abortRequested: 0x007,
  abortedSqDeletion: 0x008,
  invalidNamespaceOrFormat: 0x00b,
  commandSequenceError: 0x00c,
  invalidSglSegmentDescriptor: 0x00d,
  invalidSglDescriptorCount: 0x00e,
  sglDataLengthInvalid: 0x00f,
  sglMetadataLengthInvalid: 0x010,
  sglDescriptorTypeInvalid: 0x011,
  prpOffsetInvalid: 0x013,
  sglOffsetInvalid: 0x016,
  namespaceWriteProtected: 0x020,
  lbaOutOfRange: 0x080,
  capacityExceeded: 0x081,
  namespaceNotReady: 0x082,
  formatInProgress: 0x084,
  completionQueueInvalid: 0x100,
  invalidQueueId: 0x101,
  invalidQueueSize: 0x102,
  abortLimitExceeded: 0x103,
  asyncEventLimitExceeded: 0x105,
  invalidFirmwareSlot: 0x106,
  invalidInterruptVector: 0x108,
  invalidLogPage: 0x109,
  invalidFormat: 0x10a,
  invalidQueueDeletion: 0x10c,
  featureNotSaveable: 0x10d,
  featureNotChangeable: 0x10e,
  featureNotNamespaceSpecific: 0x10f,
  invalidControllerId: 0x11f,
  conflictingAttributes: 0x180,
  writeToReadOnlyRange: 0x182,
  writeFault: 0x280,
  unrecoveredRead: 0x281,
  compareFailure: 0x285,
} as const;
export type Status = (typeof Status)[keyof typeof Status];

/** What a command comes to. */
export interface Outcome {
  readonly status: Status;
  /** Command-specific dword 0 of the completion; default 0. */
  readonly dword0?: number;
  /** The error log entry has details (§5.14.1.1); default false. */
  readonly more?: boolean;
}

export const SUCCESS: Outcome = Object.freeze({ status: Status.success });
