/**
 * A socket between the device's process and the controller for what IPC messages cannot carry: descriptors
 * (SCM_RIGHTS). Each goes with a number, by which a request on the IPC channel names it. It is sent before
 * that request, so it is there when the request is handled.
 * @module
 */
import { close } from '../ffi/libc.ts';
import { MessageBuffer } from '../ffi/unix-socket.ts';

/** Where the controller's process has its end. */
export const DESCRIPTOR_CHANNEL_FD = 4;

const MESSAGE_BYTES = 4;
/** Descriptors whose request did not come, one after the other. */
const STRAY_MAX = 64;

export class DescriptorSender {
  readonly #socket: number;
  readonly #message = new MessageBuffer(MESSAGE_BYTES);
  #next = 1;
  #closed = false;

  /** @param socket non-blocking; closed with this. */
  constructor(socket: number) {
    this.#socket = socket;
  }

  /** Sends a descriptor, which stays the caller's. @returns its number. @throws Error, SystemError */
  send(descriptor: number): number {
    if (this.#closed) throw new Error('expected an open descriptor channel, got a closed one');
    const number = this.#next;
    this.#message.view.setUint32(0, number, true);
    if (this.#message.send(this.#socket, MESSAGE_BYTES, [descriptor]) !== MESSAGE_BYTES) {
      throw new Error('expected the memory controller to take a descriptor, got a full channel');
    }
    this.#next = (this.#next + 1) >>> 0;
    return number;
  }

  /** Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    close(this.#socket);
  }
}

export class DescriptorReceiver {
  readonly #socket: number;
  readonly #message = new MessageBuffer(MESSAGE_BYTES);

  constructor(socket: number) {
    this.#socket = socket;
  }

  /**
   * Takes the descriptor of that number, and has `use` do with it what it will; it is closed afterwards, as
   * are those before it that no request came for. @throws Error where it did not come
   */
  with<T>(number: number, use: (descriptor: number) => T): T {
    for (let strays = 0; strays < STRAY_MAX; strays++) {
      const message = this.#message.receive(this.#socket);
      if (message === undefined || message.count === 0) break;
      try {
        const [descriptor] = message.descriptors;
        if (message.count !== MESSAGE_BYTES || descriptor === undefined) break;
        if (this.#message.view.getUint32(0, true) === number) return use(descriptor);
      } finally {
        for (const descriptor of message.descriptors) close(descriptor);
      }
    }
    throw new Error(`expected a descriptor with number ${number} beside the request, got none`);
  }
}
