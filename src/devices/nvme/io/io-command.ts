import type {
  StorageBuffers,
  StorageError,
  StorageKind,
  StorageRequest,
} from '../../../storage/block-storage.ts';
import { DataPointer } from '../data-pointer/data-pointer.ts';
import type { NamespaceGate } from '../namespace-gate.ts';
import type { SubmissionQueue } from '../queue/submission-queue.ts';
import { Status } from '../status.ts';
import type { IoHandler } from './io-handler.ts';

/** A buffer of this size stays with its command: most commands need no other. */
const KEPT_BYTES = 4096;

/** Hears of a storage request that is over. */
export type StorageDone = (command: IoCommand, error: StorageError | undefined) => void;

/**
 * An I/O command on its way, from the submission queue to the completion queue. It is its own storage
 * request, one at a time, and is used again for the next command when its last request is over.
 */
export class IoCommand implements StorageRequest {
  /** The submission queue entry. */
  readonly words = new Uint32Array(16);
  readonly pointer = new DataPointer();
  readonly #done: StorageDone;
  /**
   * The queue it came from, and which life of the controller that queue belongs to. Undefined of a
   * command at rest.
   */
  queue: SubmissionQueue | undefined;
  life = 0;
  handler: IoHandler | undefined;
  /** Undefined of a Flush of all namespaces. */
  gate: NamespaceGate | undefined;
  status: Status = Status.success;
  /** What the host's data pointer names; 0 for none. */
  transferBytes = 0;
  toHost = false;
  /** Further memory that the command wants, for what does not go to the host. */
  scratchBytes = 0;
  /** Storage requests so far. */
  step = 0;
  /** It is counted by its gate, or by all of them. */
  entered = false;
  /** A request is with the storage: the buffers are the kernel's. */
  busy = false;
  error: StorageError | undefined;
  /** The host's data, `transferBytes` long. */
  data: Uint8Array | undefined;
  scratch: Uint8Array | undefined;
  #kept: Uint8Array | undefined;
  /** A view of the kept buffer, for the length that was wanted last. */
  #keptView: Uint8Array | undefined;
  #taken: Uint8Array | undefined;
  #takenScratch: Uint8Array | undefined;
  // Of the storage request.
  kind: StorageKind = 'read';
  offset = 0;
  length = 0;
  bytes: Uint8Array | undefined;
  durable = false;
  /** Of Dataset Management: the next range, in bytes of the data. */
  rangeAt = 0;

  constructor(done: StorageDone) {
    this.#done = done;
  }

  get opcode(): number {
    return (this.words[0] as number) & 0xff;
  }

  get fused(): number {
    return ((this.words[0] as number) >>> 8) & 3;
  }

  get cid(): number {
    return (this.words[0] as number) >>> 16;
  }

  get nsid(): number {
    return this.words[1] as number;
  }

  /** As the command begins its way. */
  begin(queue: SubmissionQueue, life: number): void {
    this.queue = queue;
    this.life = life;
    this.handler = undefined;
    this.gate = undefined;
    this.status = Status.success;
    this.transferBytes = 0;
    this.toHost = false;
    this.scratchBytes = 0;
    this.step = 0;
    this.error = undefined;
  }

  /** The next storage request. */
  request(
    kind: StorageKind,
    offset: number,
    length: number,
    bytes: Uint8Array | undefined,
    durable: boolean,
  ): true {
    this.kind = kind;
    this.offset = offset;
    this.length = length;
    this.bytes = bytes;
    this.durable = durable;
    return true;
  }

  done(error: StorageError | undefined): void {
    this.#done(this, error);
  }

  /** Takes what memory the command needs. @returns false where there is none: then nothing is taken */
  takeBuffers(buffers: StorageBuffers): boolean {
    const { transferBytes, scratchBytes } = this;
    if (transferBytes > 0) {
      const data = this.#takeData(buffers, transferBytes);
      if (data === undefined) return false;
      this.data = data;
    }
    if (scratchBytes > 0) {
      const taken = buffers.take(scratchBytes);
      if (taken === undefined) {
        this.giveBuffers(buffers);
        return false;
      }
      this.#takenScratch = taken;
      this.scratch = taken.length === scratchBytes ? taken : taken.subarray(0, scratchBytes);
    }
    return true;
  }

  giveBuffers(buffers: StorageBuffers): void {
    this.data = undefined;
    this.scratch = undefined;
    this.bytes = undefined;
    if (this.#taken !== undefined) buffers.give(this.#taken);
    if (this.#takenScratch !== undefined) buffers.give(this.#takenScratch);
    this.#taken = undefined;
    this.#takenScratch = undefined;
  }

  /** Gives back what it keeps from command to command too. */
  giveAll(buffers: StorageBuffers): void {
    this.giveBuffers(buffers);
    if (this.#kept !== undefined) buffers.give(this.#kept);
    this.#kept = undefined;
    this.#keptView = undefined;
  }

  #takeData(buffers: StorageBuffers, length: number): Uint8Array | undefined {
    if (length <= KEPT_BYTES && this.#kept !== undefined) return this.#viewOfKept(length);
    const taken = buffers.take(Math.max(length, KEPT_BYTES));
    // A pool that is short gives a larger one: kept, it would be lost to the commands that need it.
    if (length <= KEPT_BYTES && taken?.length === KEPT_BYTES) {
      this.#kept = taken;
      return this.#viewOfKept(length);
    }
    this.#taken = taken;
    return taken?.length === length ? taken : taken?.subarray(0, length);
  }

  #viewOfKept(length: number): Uint8Array | undefined {
    if (this.#keptView?.length !== length) this.#keptView = this.#kept?.subarray(0, length);
    return this.#keptView;
  }
}
