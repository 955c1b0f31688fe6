/** What a socket did not take at once: it goes out, in order, when the server has read. */
import { close, duplicate, SystemError } from '../../ffi/libc.ts';
import type { ReadableWatch } from '../../ffi/poll.ts';
import { MessageBuffer } from '../../ffi/unix-socket.ts';

/** Bytes that may wait. A server that reads nothing must not fill our memory. */
const WAITING_BYTES_MAX = 8 * 1024 * 1024;
const PIECE_BYTES = 64 * 1024;

interface Waiting {
  readonly bytes: Uint8Array;
  /** Our duplicates of what goes with its first byte. */
  readonly descriptors: readonly number[];
}

export class SendQueue {
  readonly #fd: number;
  readonly #watch: ReadableWatch;
  readonly #failed: (why: string) => void;
  readonly #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #piece: MessageBuffer | undefined;

  /** @param failed told once the connection is of no more use */
  constructor(fd: number, watch: ReadableWatch, failed: (why: string) => void) {
    this.#fd = fd;
    this.#watch = watch;
    this.#failed = failed;
  }

  /** Sends the first `length` bytes of the message, or keeps a copy of what has to wait. */
  send(message: MessageBuffer, length: number, descriptors: readonly number[]): void {
    let sent = 0;
    if (this.#waiting.length === 0) {
      const taken = this.#taken(message, length, descriptors);
      if (taken === undefined || taken === length) return;
      sent = taken;
    }
    const bytes = message.bytes.slice(sent, length);
    if (this.#waitingBytes + bytes.length > WAITING_BYTES_MAX) {
      this.#failed(`the server reads nothing, and ${this.#waitingBytes} bytes wait for it`);
      return;
    }
    this.#waiting.push({ bytes, descriptors: sent > 0 ? [] : descriptors.map(duplicate) });
    this.#waitingBytes += bytes.length;
    this.#watch.onceWritable(() => this.#drain());
  }

  /** Forgets what waits. */
  clear(): void {
    for (const { descriptors } of this.#waiting) descriptors.forEach(close);
    this.#waiting.length = 0;
    this.#waitingBytes = 0;
  }

  #drain(): void {
    this.#piece ??= new MessageBuffer(PIECE_BYTES);
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const length = Math.min(next.bytes.length, PIECE_BYTES);
      this.#piece.bytes.set(next.bytes.subarray(0, length));
      const taken = this.#taken(this.#piece, length, next.descriptors);
      if (taken === undefined) return;
      this.#waitingBytes -= taken;
      if (taken > 0) next.descriptors.forEach(close);
      if (taken === next.bytes.length) this.#waiting.shift();
      else if (taken > 0) this.#waiting[0] = { bytes: next.bytes.subarray(taken), descriptors: [] };
      if (taken < length) {
        this.#watch.onceWritable(() => this.#drain());
        return;
      }
    }
  }

  /** @returns the bytes that the socket took, or undefined where it has failed */
  #taken(
    message: MessageBuffer,
    length: number,
    descriptors: readonly number[],
  ): number | undefined {
    try {
      return message.send(this.#fd, length, descriptors) ?? 0;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#failed(error.message);
      return undefined;
    }
  }
}
