import type { AdminHost } from './admin-host.ts';

/** Arbitration burst that means no limit (§5.21.1.1). */
const BURST_NO_LIMIT = 7;

/** A 48-bit count of milliseconds (§5.21.1.14). */
const TIMESTAMP_BITS = 48;

/** The features' current values that the controller's core acts on (NVMe 1.4 §5.21.1). */
export class Features {
  /** Arbitration (01h) as it was set: burst 2:0, and weights that only weighted round robin uses. */
  arbitration = BURST_NO_LIMIT;
  /** Power Management (02h): the one power state, 0, and the workload hint in 7:5. */
  powerManagement = 0;
  /** Volatile Write Cache (06h): acknowledged writes may be lost with the power until a Flush. */
  writeCache = true;
  /**
   * Set by the core once an I/O queue has been created: from then on, until a reset, Number of Queues
   * (07h) is refused with Command Sequence Error.
   */
  ioQueuesCreated = false;
  /** Number of Queues (07h): what was granted, counted from 1. Queue IDs above are refused. */
  ioSubmissionQueues = 0;
  ioCompletionQueues = 0;
  /** Interrupt Coalescing (08h): completions, counted from 1, and microseconds; 0 µs: none. */
  coalescingThreshold = 1;
  coalescingMicroseconds = 0;
  /** Write Atomicity Normal (0Ah): the host needs no atomicity beyond that of power failures. */
  normalAtomicityDisabled = false;
  readonly #host: AdminHost;
  readonly #vectorsNotCoalesced = new Set<number>();
  /** Error Recovery (05h), time limit alone, by NSID. */
  readonly #recoveryLimits = new Map<number, number>();
  #timestamp = 0n;
  #timestampFromHost = false;
  #timestampSetMs: number;

  constructor(host: AdminHost) {
    this.#host = host;
    this.ioSubmissionQueues = host.ioQueuesMax;
    this.ioCompletionQueues = host.ioQueuesMax;
    this.#timestampSetMs = host.uptimeMs;
  }

  /** Commands that one arbitration may take from a queue; Infinity is no limit. */
  get arbitrationBurst(): number {
    const exponent = this.arbitration & 7;
    return exponent === BURST_NO_LIMIT ? Number.POSITIVE_INFINITY : 2 ** exponent;
  }

  /** Interrupt Vector Configuration (09h): this vector is never coalesced. */
  coalescingDisabled(vector: number): boolean {
    return this.#vectorsNotCoalesced.has(vector);
  }

  /** @param vector below the host's count of them. */
  setCoalescingDisabled(vector: number, disabled: boolean): void {
    if (disabled) this.#vectorsNotCoalesced.add(vector);
    else this.#vectorsNotCoalesced.delete(vector);
  }

  /** Error Recovery (05h): the time limit in units of 100 ms, 0 for none. */
  recoveryLimit(nsid: number): number {
    return this.#recoveryLimits.get(nsid) ?? 0;
  }

  setRecoveryLimit(nsid: number, limit: number): void {
    this.#recoveryLimits.set(nsid, limit);
  }

  /** Timestamp (0Eh): milliseconds since the host's epoch, or since the reset where it set none. */
  get timestamp(): { readonly milliseconds: bigint; readonly fromHost: boolean } {
    const elapsed = BigInt(Math.floor(this.#host.uptimeMs - this.#timestampSetMs));
    return {
      milliseconds: BigInt.asUintN(TIMESTAMP_BITS, this.#timestamp + elapsed),
      fromHost: this.#timestampFromHost,
    };
  }

  setTimestamp(milliseconds: bigint): void {
    this.#timestamp = BigInt.asUintN(TIMESTAMP_BITS, milliseconds);
    this.#timestampFromHost = true;
    this.#timestampSetMs = this.#host.uptimeMs;
  }

  /** Controller level reset: all at their defaults, as none is saveable (§7.3.2, §7.8). */
  reset(): void {
    this.arbitration = BURST_NO_LIMIT;
    this.powerManagement = 0;
    this.writeCache = true;
    this.ioQueuesCreated = false;
    this.ioSubmissionQueues = this.#host.ioQueuesMax;
    this.ioCompletionQueues = this.#host.ioQueuesMax;
    this.coalescingThreshold = 1;
    this.coalescingMicroseconds = 0;
    this.normalAtomicityDisabled = false;
    this.#vectorsNotCoalesced.clear();
    this.#recoveryLimits.clear();
    this.#timestamp = 0n;
    this.#timestampFromHost = false;
    this.#timestampSetMs = this.#host.uptimeMs;
  }
}
