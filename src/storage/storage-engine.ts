/** What carries a request to the kernel without waiting for it: io_uring, or a pool of threads. */

export type EngineCall =
  /** `bytes` at `address`, `length` long, from or to `offset`. */
  | 'read'
  | 'write'
  /** A write that is done only when its data is on the disk. */
  | 'durable-write'
  | 'datasync'
  /** fallocate(2), with `mode`. */
  | 'fallocate';

/** One call under way; its owner keeps it unchanged until the engine has ended it. */
export interface EngineOperation {
  /** Its place among those of this storage, from 0: no two under way have the same. */
  readonly index: number;
  call: EngineCall;
  offset: number;
  length: number;
  /** Of a read or write: `length` bytes, and their address. */
  bytes: Uint8Array | undefined;
  address: number;
  /** Of `fallocate`: FALLOC_FL_*. */
  mode: number;
}

export interface StorageEngine {
  /** For the log. */
  readonly name: string;
  /** Takes an operation; at most {@link OPERATIONS_MAX} may be under way. */
  start(operation: EngineOperation): void;
  /** Has the kernel see what was started. May end operations. */
  submit(): void;
  /** Nothing is under way. */
  close(): void;
}

export interface EngineListener {
  /** An operation's end: bytes, 0, or minus an errno. From `submit`, or from the event loop. */
  ended(operation: EngineOperation, result: number): void;
  /** Those that ended together have been told of: after all that come from the event loop, whatever `ended` threw. */
  settled(): void;
}

/** Operations under way in one storage, and entries of its ring. */
export const OPERATIONS_MAX = 256;
