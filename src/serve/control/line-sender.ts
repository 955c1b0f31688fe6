import { SystemError } from '../../ffi/libc.ts';
import type { ReadableWatch } from '../../ffi/poll.ts';
import { MessageBuffer } from '../../ffi/unix-socket.ts';

const PIECE_BYTES = 16 * 1024;

/** Sends text; what the socket does not take at once waits, and is bounded. */
export class LineSender {
  readonly #fd: number;
  readonly #watch: ReadableWatch;
  readonly #waitingMax: number;
  readonly #failed: (why: string) => void;
  readonly #piece = new MessageBuffer(PIECE_BYTES);
  #waiting: Buffer = Buffer.alloc(0);
  #descriptor: number | undefined;
  #ended = false;

  /** @param failed told once the connection is of no more use */
  constructor(fd: number, watch: ReadableWatch, waitingMax: number, failed: (why: string) => void) {
    this.#fd = fd;
    this.#watch = watch;
    this.#waitingMax = waitingMax;
    this.#failed = failed;
  }

  /** @param descriptor goes with the first byte, and stays the caller's, who keeps it open until then */
  send(text: string, descriptor?: number): void {
    if (this.#ended) return;
    const bytes = Buffer.from(text);
    if (this.#waiting.length + bytes.length > this.#waitingMax) {
      this.#end(`it reads nothing, and ${this.#waiting.length} bytes wait for it`);
      return;
    }
    this.#waiting = Buffer.concat([this.#waiting, bytes]);
    if (descriptor !== undefined) this.#descriptor = descriptor;
    this.#drain();
  }

  /** Sends nothing more. */
  close(): void {
    this.#ended = true;
    this.#waiting = Buffer.alloc(0);
  }

  #drain(): void {
    while (!this.#ended && this.#waiting.length > 0) {
      const length = Math.min(this.#waiting.length, PIECE_BYTES);
      this.#piece.bytes.set(this.#waiting.subarray(0, length));
      let taken: number | undefined;
      try {
        const descriptors = this.#descriptor === undefined ? [] : [this.#descriptor];
        taken = this.#piece.send(this.#fd, length, descriptors);
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        this.#end(error.message);
        return;
      }
      if (taken === undefined) {
        this.#watch.onceWritable(() => this.#drain());
        return;
      }
      this.#descriptor = undefined;
      this.#waiting = this.#waiting.subarray(taken);
    }
  }

  #end(why: string): void {
    this.close();
    this.#failed(why);
  }
}
