/**
 * What this controller can do, said once: Identify declares it, the commands keep to it.
 * Sections are those of NVMe 1.4.
 */

/** Identify's VER and the VS register: 1.4.0 (§3.1.2). */
export const VERSION = 0x0001_0400;

/** Asynchronous Event Requests that may be outstanding (AERL + 1). */
export const EVENT_REQUESTS_MAX = 4;

/** Entries of the Error Information log (ELPE + 1): together a page. */
export const ERROR_LOG_ENTRIES = 64;

/** Abort commands that may be outstanding (ACL + 1); what the specification recommends. */
export const ABORTS_MAX = 4;

/** Kelvin: composite temperatures to warn at (WCTEMP) and that are critical (CCTEMP). */
export const WARNING_TEMPERATURE = 343;
export const CRITICAL_TEMPERATURE = 353;

/** NSID of all namespaces, and of none. */
export const BROADCAST_NSID = 0xffff_ffff;

/** Opcodes of the admin command set (§5). */
export const AdminOpcode = {
  deleteIoSubmissionQueue: 0x00,
  createIoSubmissionQueue: 0x01,
  getLogPage: 0x02,
  deleteIoCompletionQueue: 0x04,
  createIoCompletionQueue: 0x05,
  identify: 0x06,
  abort: 0x08,
  setFeatures: 0x09,
  getFeatures: 0x0a,
  asyncEventRequest: 0x0c,
  doorbellBufferConfig: 0x7c,
  formatNvm: 0x80,
} as const;

/** Log pages (§5.14.1). */
export const LogPage = {
  errorInformation: 0x01,
  health: 0x02,
  firmwareSlot: 0x03,
  changedNamespaces: 0x04,
  commandEffects: 0x05,
} as const;
