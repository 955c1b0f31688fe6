/**
 * What a device's author sees of a virtqueue (virtio 1.2 section 2.6): chains come out in the order
 * in which the driver made them available, and go back in any order.
 */

/** One descriptor chain: the device-readable bytes of a request, then room for its reply. */
export interface Chain {
  /** Device-readable bytes in the whole chain. */
  readonly readable: number;
  /** Device-writable bytes in the whole chain. */
  readonly writable: number;
  /** End of what write() has filled so far: the length that put() reports by default. */
  readonly written: number;
  /**
   * Device-readable bytes `at` to `at + length`, in an array of the caller's own. Default: from 0
   * to the last of them, which is what the driver says: give a length where the driver may lie.
   *
   * @throws RangeError outside the readable part or beyond 16 MiB; DmaAbort where a buffer is not
   *   reachable; ResetAbort after a reset of the device or of the queue
   */
  read(at?: number, length?: number): Uint8Array;
  /** As {@link read}, into memory that is there already. */
  readInto(into: Uint8Array, at?: number): void;
  /**
   * Fills device-writable bytes, by default after those written last. The bytes are taken at once;
   * they reach guest memory at the latest when flush() makes the chain used, before the driver can
   * see that. A buffer that is not reachable throws DmaAbort here, or makes flush() ask for a reset.
   *
   * @throws RangeError outside the writable part; DmaAbort; ResetAbort
   */
  write(bytes: Uint8Array, at?: number): void;
}

/** A virtqueue, enabled or not. Its calls are synchronous. */
export interface Virtqueue {
  readonly name: string;
  /** Its number on the wire, from 0. */
  readonly index: number;
  /** Whether the driver has enabled it and the device runs: only then take() finds anything. */
  readonly live: boolean;
  /** Entries of the ring as the driver set it up; at most the size of the declaration. */
  readonly size: number;
  /** Chains that were taken and are not put back. At most {@link size}. */
  readonly inFlight: number;
  /**
   * The next available chain; undefined where there is none, where the queue is not live, or where
   * the driver broke the rules, which makes the device ask for a reset (DEVICE_NEEDS_RESET). For
   * chains that come while onQueue runs, and that it does not see any more, it runs again.
   */
  take(): Chain | undefined;
  /**
   * Marks a chain as used. The driver does not see it before {@link flush}.
   *
   * @param written bytes filled from the start of the writable part; default what write() filled
   * @throws RangeError beyond the writable part; Error for a chain that is back already or is of
   *   another queue; ResetAbort for one from before a reset
   */
  put(chain: Chain, written?: number): void;
  /**
   * Shows the driver all that was put back, in the order of put(), with one interrupt at most, and
   * only if the driver wants it. Does nothing where nothing was put back or the queue is not live.
   * Runs by itself when {@link VirtioFunction.onQueue} is over.
   */
  flush(): void;
}
