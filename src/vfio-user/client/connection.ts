/**
 * The VMM's end of a vfio-user socket: sends commands with descriptors beside them, and matches
 * replies to them by message ID. Each request has a time limit.
 */
import { close, SystemError } from '../../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../../ffi/poll.ts';
import { connectUnix, MessageBuffer } from '../../ffi/unix-socket.ts';
import {
  FLAG_ERROR,
  FLAG_NO_REPLY,
  HEADER_BYTES,
  MESSAGE_TYPE_MASK,
  putHeader,
  TYPE_COMMAND,
  TYPE_REPLY,
} from '../protocol.ts';

/** What a server may send us at most: libvfio-user's own limit. */
const REPLY_BYTES_MAX = 1024 * 1024 + 64;
const REQUESTS_MAX = 1024;

/** The server answered with an errno. */
export class VfioUserError extends SystemError {}

/** The connection ended, or broke the protocol; nothing more will be answered. */
export class ConnectionLost extends Error {
  override readonly name = 'ConnectionLost';
}

export interface Reply {
  /** Header included. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
  /** The caller closes them. */
  readonly descriptors: readonly number[];
}

interface Pending {
  readonly command: string;
  resolve(reply: Reply): void;
  reject(error: Error): void;
  readonly timer: NodeJS.Timeout;
}

export class Connection {
  readonly #fd: number;
  readonly #watch: ReadableWatch;
  readonly #out = new MessageBuffer(REPLY_BYTES_MAX);
  readonly #in = new MessageBuffer(64 * 1024);
  readonly #pending = new Map<number, Pending>();
  readonly #timeoutMs: number;
  #received = new Uint8Array(0);
  #descriptors: number[] = [];
  #nextId = 0;
  #lost: ConnectionLost | undefined;

  /** @throws SystemError where nobody listens */
  constructor(path: string, timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
    this.#fd = connectUnix(path);
    this.#watch = watchReadable(this.#fd, () => this.#read());
  }

  /** Why the connection has ended, once it has. */
  get lost(): ConnectionLost | undefined {
    return this.#lost;
  }

  /** For tests that write what they like to the socket. */
  get descriptor(): number {
    return this.#fd;
  }

  /**
   * Sends a command whose body `fill` writes, and waits for the reply.
   * @throws VfioUserError with the server's errno; ConnectionLost; Error after the time limit
   */
  async request(
    [name, command]: readonly [name: string, command: number],
    bodyBytes: number,
    fill: (view: DataView<ArrayBuffer>, bytes: Uint8Array<ArrayBuffer>) => void,
    descriptors: readonly number[] = [],
  ): Promise<Reply> {
    if (this.#pending.size >= REQUESTS_MAX) {
      throw new Error(`expected at most ${REQUESTS_MAX} requests under way`);
    }
    const id = this.#nextId;
    this.#nextId = (id + 1) & 0xffff;
    this.#send(id, command, TYPE_COMMAND, bodyBytes, fill, descriptors);
    return await new Promise<Reply>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new Error(`no reply to ${name} within ${this.#timeoutMs} ms`));
      }, this.#timeoutMs);
      this.#pending.set(id, { command: name, resolve, reject, timer });
    });
  }

  /** Sends a command that the server does not answer. @throws ConnectionLost, SystemError */
  post(
    command: number,
    bodyBytes: number,
    fill: (view: DataView<ArrayBuffer>, bytes: Uint8Array<ArrayBuffer>) => void,
  ): void {
    const id = this.#nextId;
    this.#nextId = (id + 1) & 0xffff;
    this.#send(id, command, TYPE_COMMAND | FLAG_NO_REPLY, bodyBytes, fill, []);
  }

  close(): void {
    this.#end('closed by us');
  }

  #send(
    id: number,
    command: number,
    flags: number,
    bodyBytes: number,
    fill: (view: DataView<ArrayBuffer>, bytes: Uint8Array<ArrayBuffer>) => void,
    descriptors: readonly number[],
  ): void {
    if (this.#lost !== undefined) throw this.#lost;
    const { bytes, view } = this.#out;
    const size = HEADER_BYTES + bodyBytes;
    bytes.fill(0, 0, size);
    putHeader(view, id, command, size, flags);
    fill(view, bytes);
    let sent: number | undefined;
    try {
      sent = this.#out.send(this.#fd, size, descriptors);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      throw this.#end(error.message);
    }
    // The server does not read what was sent before; a client that awaits replies need not queue.
    if (sent !== size) throw this.#end(`the socket took ${sent ?? 0} of ${size} bytes`);
  }

  #read(): void {
    let received: ReturnType<MessageBuffer['receive']>;
    try {
      received = this.#in.receive(this.#fd);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#end(error.message);
      return;
    }
    if (received === undefined) return;
    this.#descriptors.push(...received.descriptors);
    if (received.count === 0) {
      this.#end('the server closed the connection');
      return;
    }
    const joined = new Uint8Array(this.#received.length + received.count);
    joined.set(this.#received);
    joined.set(this.#in.bytes.subarray(0, received.count), this.#received.length);
    this.#received = joined;
    this.#takeReplies();
  }

  #takeReplies(): void {
    while (this.#received.length >= HEADER_BYTES) {
      const header = new DataView(this.#received.buffer, this.#received.byteOffset);
      const size = header.getUint32(4, true);
      if (size < HEADER_BYTES || size > REPLY_BYTES_MAX) {
        this.#end(`a message of ${size} bytes`);
        return;
      }
      if (this.#received.length < size) return;
      const bytes = this.#received.slice(0, size);
      this.#received = this.#received.slice(size);
      this.#deliver(bytes);
    }
  }

  #deliver(bytes: Uint8Array<ArrayBuffer>): void {
    const view = new DataView(bytes.buffer);
    const flags = view.getUint32(8, true);
    const id = view.getUint16(0, true);
    const descriptors = this.#descriptors;
    this.#descriptors = [];
    const pending = this.#pending.get(id);
    // A request of the server (DMA by message), or a reply after its time: nobody waits for it.
    if ((flags & MESSAGE_TYPE_MASK) !== TYPE_REPLY || pending === undefined) {
      for (const descriptor of descriptors) close(descriptor);
      return;
    }
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if ((flags & FLAG_ERROR) !== 0) {
      for (const descriptor of descriptors) close(descriptor);
      pending.reject(new VfioUserError(pending.command, view.getUint32(12, true)));
    } else {
      pending.resolve({ bytes, view, descriptors });
    }
  }

  #end(why: string): ConnectionLost {
    if (this.#lost !== undefined) return this.#lost;
    const lost = new ConnectionLost(`the vfio-user connection ended: ${why}`);
    this.#lost = lost;
    this.#watch.close();
    for (const descriptor of this.#descriptors) close(descriptor);
    close(this.#fd);
    for (const pending of this.#pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(lost);
    }
    this.#pending.clear();
    return lost;
  }
}
