/** The bytes behind a disk: a raw file or a block device of the host. */

export type StorageKind = 'read' | 'write' | 'flush' | 'write-zeroes' | 'discard';

/** Why a request came to nothing; `message` names the file and the errno. */
export class StorageError extends Error {
  override readonly name = 'StorageError';
  readonly kind: StorageKind;
  /** Positive, or 0 where no system call failed. */
  readonly errno: number;

  constructor(kind: StorageKind, message: string, errno = 0) {
    super(message);
    this.kind = kind;
    this.errno = errno;
  }
}

/** One request; its owner may use it again once it is done. */
export interface StorageRequest {
  readonly kind: StorageKind;
  /** Bytes, inside the storage. */
  readonly offset: number;
  /** Bytes; 0 for `flush`. */
  readonly length: number;
  /**
   * Of `length` bytes for `read` and `write`, else undefined: memory that {@link StorageBuffers} gave,
   * or part of it. The kernel reads or fills it until the request is done, also after a reset of the
   * device that asked.
   */
  readonly bytes: Uint8Array | undefined;
  /** Of a write: done only when it would survive a loss of power. */
  readonly durable: boolean;
  /** Called once: from {@link BlockStorage.kick}, or from the event loop later. Must not throw. */
  done(error: StorageError | undefined): void;
}

/**
 * Requests go in with {@link submit}, any number of them, and to the kernel with {@link kick}, in one
 * system call where it can be. They end in any order. Nothing here waits for a disk on the event loop.
 */
export interface BlockStorage {
  readonly path: string;
  readonly bytes: number;
  readonly readOnly: boolean;
  /** Whether `discard` gives room back; else it does nothing. */
  readonly discards: boolean;
  /**
   * After `close` the request is only told that it is too late.
   * @throws RangeError where the request leaves the storage, or writes to one that is read-only, or its
   * bytes are not those of the contract, or more wait than any pool has buffers for.
   */
  submit(request: StorageRequest): void;
  /**
   * May call {@link StorageRequest.done}: of requests that memory can answer, at once, and of those that
   * are over by now. Called in a `done`, it is made up for behind the last of those.
   */
  kick(): void;
  /** Waits for what is in flight, flushes, gives the lock back. */
  close(): Promise<void>;
}

/** Memory that requests read into and write from: outside V8's heap, page-aligned, used again. */
export interface StorageBuffers {
  /** At least `bytes` long; the caller gives back just what it got. Bounded: undefined where used up. */
  take(bytes: number): Uint8Array | undefined;
  give(buffer: Uint8Array): void;
}
