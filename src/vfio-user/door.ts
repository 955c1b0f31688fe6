/**
 * The socket that clients come to. libvfio-user's own would accept one client, read its first
 * message blocking (a client that says nothing would stop the process), and let a second one
 * wait without a word. So the public socket is ours: a client is accepted at once, its version
 * message awaited without blocking and for a bounded time, and only then is it let in or, where
 * another one is in, told EBUSY.
 */
import { chmodSync, lstatSync, unlinkSync } from 'node:fs';
import { close, peerHasEnded, SystemError } from '../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../ffi/poll.ts';
import {
  acceptUnix,
  checkSocketPath,
  connectUnix,
  listenUnix,
  MessageBuffer,
} from '../ffi/unix-socket.ts';
import {
  COMMAND,
  ERRNO,
  FLAG_ERROR,
  HEADER_BYTES,
  MESSAGE_TYPE_MASK,
  putHeader,
  TYPE_COMMAND,
  TYPE_REPLY,
} from './protocol.ts';

/** Clients that may stand in the door at once; for one more, the one that waits longest is closed. */
const WAITING_MAX = 8;
const VERSION_BYTES_MAX = 4096;
const VERSION_WAIT_MS = 5000;
const BACKLOG = 16;
/** Where no connection can be taken (no descriptor is left): how long until the next try. */
const ACCEPT_AGAIN_MS = 100;

export interface DoorEvents {
  /**
   * A client has sent this version message (header included). Returns the errno to refuse it
   * with, or 0: then the connection is the callee's, else it is closed here.
   */
  admit(connection: number, version: Uint8Array): number;
  log(message: string): void;
}

interface Waiting {
  readonly connection: number;
  readonly watch: ReadableWatch;
  readonly timer: NodeJS.Timeout;
}

export class Door {
  readonly #path: string;
  readonly #inode: bigint;
  readonly #listening: number;
  readonly #watch: ReadableWatch;
  readonly #waiting = new Set<Waiting>();
  readonly #events: DoorEvents;
  readonly #message = new MessageBuffer(VERSION_BYTES_MAX);
  #closed = false;

  /**
   * Listens at `path`; the file is for the owner alone. A socket file that nobody listens at (of a
   * killed run) is replaced. @throws Error where another process listens there, or the file is no
   * socket; RangeError where the path is too long; SystemError
   */
  constructor(path: string, events: DoorEvents) {
    this.#path = path;
    this.#events = events;
    checkSocketPath(path);
    removeStale(path);
    this.#listening = listenUnix(path, BACKLOG);
    chmodSync(path, 0o600);
    this.#inode = lstatSync(path, { bigint: true }).ino;
    this.#watch = watchReadable(this.#listening, () => this.#accept());
  }

  /** Lets nobody in any more and removes the socket file, where it is still ours. */
  close(): void {
    this.#closed = true;
    this.#watch.close();
    close(this.#listening);
    for (const waiting of [...this.#waiting]) this.#turnAway(waiting);
    const file = lstatSync(this.#path, { bigint: true, throwIfNoEntry: false });
    if (file?.ino === this.#inode) unlinkSync(this.#path);
  }

  #accept(): void {
    // Whoever is told of a client may close the door: its descriptor is not ours any more then.
    for (let turn = 0; turn < WAITING_MAX && !this.#closed; turn++) {
      const connection = this.#nextConnection();
      if (connection === undefined) return;
      const [oldest] = this.#waiting;
      if (oldest !== undefined && this.#waiting.size >= WAITING_MAX) {
        this.#events.log(`closed a connection: ${WAITING_MAX} others stand in the door`);
        this.#turnAway(oldest);
      }
      const waiting: Waiting = {
        connection,
        watch: watchReadable(connection, () => this.#greet(waiting)),
        timer: setTimeout(() => {
          this.#events.log(`closed a connection that said no version for ${VERSION_WAIT_MS} ms`);
          this.#turnAway(waiting);
        }, VERSION_WAIT_MS),
      };
      this.#waiting.add(waiting);
      // Most have sent their version, or have gone, before they are accepted.
      this.#greet(waiting);
    }
  }

  #nextConnection(): number | undefined {
    try {
      return acceptUnix(this.#listening);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#events.log(`cannot take a connection now: ${error.message}`);
      this.#watch.pause();
      setTimeout(() => this.#watch.resume(), ACCEPT_AGAIN_MS);
      return undefined;
    }
  }

  #greet(waiting: Waiting): void {
    const { connection } = waiting;
    const message = this.#message;
    let seen: number | undefined;
    try {
      seen = message.peek(connection);
    } catch {
      seen = 0;
    }
    if (seen === undefined) return;
    if (seen === 0) {
      this.#turnAway(waiting);
      return;
    }
    if (seen < HEADER_BYTES) {
      this.#awaitMore(waiting);
      return;
    }
    const id = message.view.getUint16(0, true);
    const command = message.view.getUint16(2, true);
    const size = message.view.getUint32(4, true);
    const type = message.view.getUint32(8, true) & MESSAGE_TYPE_MASK;
    const valid =
      command === COMMAND.version &&
      type === TYPE_COMMAND &&
      size >= HEADER_BYTES + 4 &&
      size <= VERSION_BYTES_MAX;
    if (!valid || (message.withDescriptors && seen <= size)) {
      this.#events.log(`refused a client whose first message is no version (command ${command})`);
      this.#refuse(waiting, id, ERRNO.EINVAL);
      return;
    }
    if (seen < size) {
      this.#awaitMore(waiting);
      return;
    }
    const version = message.bytes.slice(0, size);
    const received = message.receive(connection, size);
    for (const descriptor of received?.descriptors ?? []) close(descriptor);
    // The watch goes before the connection is handed over: the callee watches it by itself.
    this.#leave(waiting);
    const errno = this.#events.admit(connection, version);
    if (errno !== 0) {
      this.#answer(connection, id, errno);
      close(connection);
    }
  }

  /** Half a message would wake the level-triggered watch again and again: look once in a while. */
  #awaitMore(waiting: Waiting): void {
    if (peerHasEnded(waiting.connection)) {
      this.#turnAway(waiting);
      return;
    }
    waiting.watch.pause();
    setTimeout(() => {
      if (this.#waiting.has(waiting)) waiting.watch.resume();
    }, 10);
  }

  #refuse(waiting: Waiting, id: number, errno: number): void {
    this.#answer(waiting.connection, id, errno);
    this.#turnAway(waiting);
  }

  #answer(connection: number, id: number, errno: number): void {
    const flags = TYPE_REPLY | FLAG_ERROR;
    putHeader(this.#message.view, id, COMMAND.version, HEADER_BYTES, flags, errno);
    try {
      this.#message.send(connection, HEADER_BYTES);
    } catch (error) {
      // A client that has gone needs no answer.
      if (!(error instanceof SystemError)) throw error;
    }
  }

  #leave(waiting: Waiting): void {
    clearTimeout(waiting.timer);
    waiting.watch.close();
    this.#waiting.delete(waiting);
  }

  #turnAway(waiting: Waiting): void {
    this.#leave(waiting);
    close(waiting.connection);
  }
}

function removeStale(path: string): void {
  const file = lstatSync(path, { throwIfNoEntry: false });
  if (file === undefined) return;
  if (!file.isSocket()) {
    throw new Error(`${path} exists and is no socket: choose another path, or remove it`);
  }
  try {
    close(connectUnix(path));
  } catch (error) {
    if (error instanceof SystemError && error.code === 'ECONNREFUSED') {
      unlinkSync(path);
      return;
    }
    // EAGAIN: its queue is full, so somebody listens. EACCES and others: not ours to remove.
    if (!(error instanceof SystemError && error.code === 'EAGAIN')) throw error;
  }
  throw new Error(`another process listens at ${path}: end it, or choose another path`);
}
