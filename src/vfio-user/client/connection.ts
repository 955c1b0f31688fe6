/**
 * The VMM's end of a vfio-user socket: sends commands with descriptors beside them, matches replies to
 * them by message ID, and answers what the server asks. Each request has a time limit; whatever a
 * server sends that is no answer to one ends the connection.
 */
import { close, SystemError } from '../../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../../ffi/poll.ts';
import { connectUnix, MessageBuffer } from '../../ffi/unix-socket.ts';
import {
  ERRNO,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  HEADER_BYTES,
  MESSAGE_TYPE_MASK,
  putHeader,
  TYPE_COMMAND,
  TYPE_REPLY,
} from '../protocol.ts';
import { SendQueue } from './send-queue.ts';

/** What a server may send us at most: libvfio-user's own limit. */
const MESSAGE_BYTES_MAX = 1024 * 1024 + 64;
const REQUESTS_MAX = 1024;
/** Descriptors that a server may have sent with a message that has not come whole. */
const DESCRIPTORS_MAX = 64;

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
}

/** A command, and the fewest bytes of its reply behind the header. */
export type CommandShape = readonly [name: string, command: number, replyBytes: number];

export interface ConnectionEvents {
  /**
   * The server asks for something; `body` is what follows the header and holds until the return.
   * Answers the body of the reply. @throws RequestRefused
   */
  request?(command: number, body: Uint8Array<ArrayBuffer>): Uint8Array;
  /** Once. */
  lost?(why: ConnectionLost): void;
}

/** What a server asked and may not have. */
export class RequestRefused extends Error {
  override readonly name = 'RequestRefused';
  readonly errno: number;

  constructor(why: string, errno: number) {
    super(why);
    this.errno = errno;
  }
}

interface Pending {
  readonly name: string;
  readonly command: number;
  readonly replyBytes: number;
  resolve(reply: Reply): void;
  reject(error: Error): void;
  readonly timer: NodeJS.Timeout;
}

export class Connection {
  readonly #fd: number;
  readonly #watch: ReadableWatch;
  readonly #queue: SendQueue;
  readonly #out = new MessageBuffer(MESSAGE_BYTES_MAX);
  readonly #in = new MessageBuffer(64 * 1024);
  readonly #pending = new Map<number, Pending>();
  /** Requests that nobody waits for any more, whose replies may still come. */
  readonly #late = new Set<number>();
  readonly #timeoutMs: number;
  readonly #events: ConnectionEvents;
  #received = new Uint8Array(0);
  #descriptors: number[] = [];
  #nextId = 0;
  #lost: ConnectionLost | undefined;

  /** @throws SystemError where nobody listens */
  constructor(path: string, timeoutMs: number, events: ConnectionEvents = {}) {
    this.#timeoutMs = timeoutMs;
    this.#events = events;
    this.#fd = connectUnix(path);
    this.#watch = watchReadable(this.#fd, () => this.#read());
    this.#queue = new SendQueue(this.#fd, this.#watch, (why) => this.#end(why));
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
    [name, command, replyBytes]: CommandShape,
    bodyBytes: number,
    fill: (view: DataView<ArrayBuffer>, bytes: Uint8Array<ArrayBuffer>) => void,
    descriptors: readonly number[] = [],
  ): Promise<Reply> {
    if (this.#pending.size + this.#late.size >= REQUESTS_MAX) {
      throw new Error(
        `expected at most ${REQUESTS_MAX} requests under way, got one more: await some of them first`,
      );
    }
    const id = this.#newId();
    this.#send(id, command, TYPE_COMMAND, bodyBytes, fill, descriptors);
    return await new Promise<Reply>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        this.#late.add(id);
        reject(new Error(`no reply to ${name} within ${this.#timeoutMs} ms`));
      }, this.#timeoutMs);
      this.#pending.set(id, { name, command, replyBytes, resolve, reject, timer });
    });
  }

  /** Sends a command that the server does not answer. @throws ConnectionLost */
  post(
    command: number,
    bodyBytes: number,
    fill: (view: DataView<ArrayBuffer>, bytes: Uint8Array<ArrayBuffer>) => void,
  ): void {
    this.#send(this.#newId(), command, TYPE_COMMAND | FLAG_NO_REPLY, bodyBytes, fill, []);
  }

  close(): void {
    this.#end('closed by us');
  }

  /** One that no reply may still come for. */
  #newId(): number {
    let id = this.#nextId;
    while (this.#pending.has(id) || this.#late.has(id)) id = (id + 1) & 0xffff;
    this.#nextId = (id + 1) & 0xffff;
    return id;
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
    this.#queue.send(this.#out, size, descriptors);
    if (this.#lost !== undefined) throw this.#lost;
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
      const half = this.#received.length;
      this.#end(`the server closed the connection${half > 0 ? ' in the middle of a message' : ''}`);
      return;
    }
    if (this.#descriptors.length > DESCRIPTORS_MAX) {
      this.#end(`the server sent more than ${DESCRIPTORS_MAX} descriptors`);
      return;
    }
    const joined = new Uint8Array(this.#received.length + received.count);
    joined.set(this.#received);
    joined.set(this.#in.bytes.subarray(0, received.count), this.#received.length);
    this.#received = joined;
    this.#takeMessages();
  }

  #takeMessages(): void {
    while (this.#received.length >= HEADER_BYTES && this.#lost === undefined) {
      const header = new DataView(this.#received.buffer, this.#received.byteOffset);
      const size = header.getUint32(4, true);
      if (size < HEADER_BYTES || size > MESSAGE_BYTES_MAX) {
        this.#end(
          `the server sent a message of ${size} bytes, where ${HEADER_BYTES} to ${MESSAGE_BYTES_MAX} are allowed`,
        );
        return;
      }
      if (this.#received.length < size) return;
      const bytes = this.#received.slice(0, size);
      this.#received = this.#received.slice(size);
      this.#deliver(bytes);
    }
  }

  #deliver(bytes: Uint8Array<ArrayBuffer>): void {
    // A server's descriptors are mappings of its regions: no command here has a use for them.
    for (const descriptor of this.#descriptors) close(descriptor);
    this.#descriptors = [];
    const view = new DataView(bytes.buffer);
    const type = view.getUint32(8, true) & MESSAGE_TYPE_MASK;
    if (type === TYPE_REPLY) this.#reply(bytes, view);
    else if (type === TYPE_COMMAND) this.#answer(bytes, view);
    else this.#end(`the server sent a message of type ${type}`);
  }

  #reply(bytes: Uint8Array<ArrayBuffer>, view: DataView<ArrayBuffer>): void {
    const id = view.getUint16(0, true);
    const command = view.getUint16(2, true);
    if (this.#late.delete(id)) return;
    const pending = this.#pending.get(id);
    if (pending === undefined) {
      this.#end(
        `the server sent a reply (command ${command}, message ${id}) that nobody asked for`,
      );
      return;
    }
    if (command !== pending.command) {
      this.#end(`the server answered ${pending.name} with a reply to command ${command}`);
      return;
    }
    const failed = (view.getUint32(8, true) & FLAG_ERROR) !== 0;
    const body = bytes.length - HEADER_BYTES;
    if (!failed && body < pending.replyBytes) {
      this.#end(
        `the server answered ${pending.name} with ${body} bytes, expected ${pending.replyBytes}`,
      );
      return;
    }
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if (failed) pending.reject(new VfioUserError(pending.name, view.getUint32(12, true)));
    else pending.resolve({ bytes, view });
  }

  /** A request of the server: DMA by message. */
  #answer(bytes: Uint8Array<ArrayBuffer>, asked: DataView<ArrayBuffer>): void {
    const id = asked.getUint16(0, true);
    const command = asked.getUint16(2, true);
    let body = new Uint8Array(0);
    let errno = 0;
    try {
      const answer = this.#events.request?.(command, bytes.subarray(HEADER_BYTES));
      if (answer === undefined) errno = ERRNO.EOPNOTSUPP;
      else body = new Uint8Array(answer);
    } catch (error) {
      if (!(error instanceof RequestRefused)) throw error;
      errno = error.errno;
    }
    if ((asked.getUint32(8, true) & FLAG_NO_REPLY) !== 0) return;
    const size = HEADER_BYTES + body.length;
    const flags = errno === 0 ? TYPE_REPLY : TYPE_REPLY | FLAG_ERROR;
    putHeader(this.#out.view, id, command, size, flags, errno);
    this.#out.bytes.set(body, HEADER_BYTES);
    this.#queue.send(this.#out, size, []);
  }

  #end(why: string): ConnectionLost {
    if (this.#lost !== undefined) return this.#lost;
    const lost = new ConnectionLost(`the vfio-user connection ended: ${why}`);
    this.#lost = lost;
    this.#watch.close();
    this.#queue.clear();
    for (const descriptor of this.#descriptors) close(descriptor);
    this.#descriptors = [];
    close(this.#fd);
    for (const pending of this.#pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(lost);
    }
    this.#pending.clear();
    this.#events.lost?.(lost);
    return lost;
  }
}
