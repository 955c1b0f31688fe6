/** One request on its way through an engine: which calls it takes, and what each one's end means. */
import { getSystemErrorName } from 'node:util';
import {
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
} from '../ffi/fallocate.ts';
import { StorageError, type StorageRequest } from './block-storage.ts';
import { addressOf, mapMemory } from './storage-buffers.ts';
import type { EngineCall, EngineOperation } from './storage-engine.ts';

/** What the file system has refused so far; all operations of a storage share it. */
export interface FileAbilities {
  readonly path: string;
  readonly blockDevice: boolean;
  /** fallocate with FALLOC_FL_ZERO_RANGE. */
  zeroes: boolean;
  /** fallocate with FALLOC_FL_PUNCH_HOLE. */
  discards: boolean;
}

/** Zeros written at once, where the file system has no better way. */
const ZERO_PIECE_BYTES = 256 * 1024;
const RETRIES_MAX = 16;

const EINTR = 4;
const EIO = 5;
const EAGAIN = 11;
const EINVAL = 22;
const ENOSYS = 38;
const EOPNOTSUPP = 95;

let zeros: Uint8Array | undefined;

/** Never written: it stays the kernel's own page of zeros. */
function zeroBytes(): Uint8Array {
  zeros ??= mapMemory(ZERO_PIECE_BYTES);
  return zeros;
}

export class Operation implements EngineOperation {
  readonly index: number;
  readonly #file: FileAbilities;
  call: EngineCall = 'read';
  offset = 0;
  length = 0;
  bytes: Uint8Array | undefined;
  address = 0;
  mode = 0;
  /** Set while under way. */
  request: StorageRequest | undefined;
  /** Why it failed, once {@link advance} has said that it is over. */
  error: StorageError | undefined;
  /** End of the range that is to be zeroed by writing. */
  #zeroEnd = 0;
  #retries = 0;

  constructor(index: number, file: FileAbilities) {
    this.index = index;
    this.#file = file;
  }

  /** Sets the first call. @returns false where there is nothing to call. */
  begin(request: StorageRequest, address: number): boolean {
    this.request = request;
    this.error = undefined;
    this.#retries = 0;
    this.#zeroEnd = 0;
    this.offset = request.offset;
    this.length = request.length;
    this.bytes = request.bytes;
    this.address = address;
    switch (request.kind) {
      case 'read':
        this.call = 'read';
        return true;
      case 'write':
        this.call = request.durable ? 'durable-write' : 'write';
        return true;
      case 'flush':
        this.call = 'datasync';
        return true;
      case 'write-zeroes':
        if (this.#file.zeroes) this.#allocate(FALLOC_FL_ZERO_RANGE);
        else this.#writeZeros();
        return true;
      case 'discard':
        if (!this.#file.discards) return false;
        this.#allocate(FALLOC_FL_PUNCH_HOLE);
        return true;
    }
  }

  /** Takes a call's end. @returns whether another call is set; else it is over, and {@link error} tells how. */
  advance(result: number): boolean {
    if (result < 0) return this.#failed(-result);
    switch (this.call) {
      case 'read':
      case 'write':
      case 'durable-write':
        return this.#moved(result);
      case 'datasync':
        return false;
      case 'fallocate':
        return this.#thenSync();
    }
  }

  end(): void {
    this.request = undefined;
    this.bytes = undefined;
  }

  #moved(count: number): boolean {
    if (count === 0 && this.call === 'read') {
      return this.#fail(0, 'the end of the file, which has become shorter since it was opened');
    }
    if (count === 0) return this.#fail(EIO, 'that none was written');
    this.#retries = 0;
    this.offset += count;
    this.length -= count;
    if (this.length > 0) {
      this.bytes = this.bytes?.subarray(count);
      this.address += count;
      return true;
    }
    if (this.#zeroEnd === 0) return false;
    if (this.offset === this.#zeroEnd) return this.#thenSync();
    this.#zeroPiece();
    return true;
  }

  #failed(errno: number): boolean {
    if ((errno === EINTR || errno === EAGAIN) && this.#retries++ < RETRIES_MAX) return true;
    if (this.call === 'fallocate' && this.#refusesToAllocate(errno)) {
      if (this.request?.kind === 'discard') {
        this.#file.discards = false;
        return false;
      }
      this.#file.zeroes = false;
      this.#writeZeros();
      return true;
    }
    return this.#fail(errno, `${errnoName(errno)} (errno ${errno})`);
  }

  /** A block device says EINVAL of a range that does not fit its blocks. */
  #refusesToAllocate(errno: number): boolean {
    return errno === EOPNOTSUPP || errno === ENOSYS || (errno === EINVAL && this.#file.blockDevice);
  }

  #fail(errno: number, got: string): false {
    const request = this.request;
    const kind = request?.kind ?? 'read';
    const range =
      kind === 'flush'
        ? ''
        : ` of ${request?.length} bytes at offset ${request?.offset} (failed at ${this.offset})`;
    const message = `disk ${this.#file.path}: expected ${kind}${range} to succeed, got ${got}`;
    this.error = new StorageError(kind, message, errno);
    return false;
  }

  #allocate(mode: number): void {
    this.call = 'fallocate';
    this.mode = mode | FALLOC_FL_KEEP_SIZE;
  }

  #writeZeros(): void {
    this.call = 'write';
    this.offset = this.request?.offset ?? 0;
    this.#zeroEnd = this.offset + (this.request?.length ?? 0);
    this.#zeroPiece();
  }

  #zeroPiece(): void {
    this.length = Math.min(this.#zeroEnd - this.offset, ZERO_PIECE_BYTES);
    this.bytes = zeroBytes().subarray(0, this.length);
    this.address = addressOf(this.bytes) ?? 0;
  }

  #thenSync(): boolean {
    this.#zeroEnd = 0;
    if (this.request?.durable !== true) return false;
    this.call = 'datasync';
    return true;
  }
}

function errnoName(errno: number): string {
  try {
    return getSystemErrorName(-errno);
  } catch {
    return `E${errno}`;
  }
}
