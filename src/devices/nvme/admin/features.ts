import type { AdminHost } from './admin-host.ts';

/** The features' current values that the controller's core acts on (NVMe 1.4 §5.21.1). */
export class Features {
  /** Volatile Write Cache (06h): acknowledged writes may be lost with the power until a Flush. */
  writeCache = true;
  /**
   * Set by the core once an I/O queue has been created: from then on, until a reset, Number of Queues
   * (07h) is refused with Command Sequence Error.
   */
  ioQueuesCreated = false;
  /** Number of Queues (07h): what was granted, counted from 1. Queue IDs above are refused. */
  ioSubmissionQueues: number;
  ioCompletionQueues: number;
  /** Interrupt Coalescing (08h): completions, counted from 1, and microseconds; 0 µs: none. */
  coalescingThreshold = 1;
  coalescingMicroseconds = 0;

  constructor(host: AdminHost) {
    this.ioSubmissionQueues = host.ioQueuesMax;
    this.ioCompletionQueues = host.ioQueuesMax;
  }

  /** Interrupt Vector Configuration (09h): this vector is never coalesced. */
  coalescingDisabled(_vector: number): boolean {
    return false;
  }
}
