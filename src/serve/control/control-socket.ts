/**
 * The control socket: for the user who started the host alone. The file is 0600 in a directory that is 0700, and
 * whoever comes all the same (a directory that somebody opened) is asked for by SO_PEERCRED.
 */
import { chmodSync, unlinkSync } from 'node:fs';
import { close, SystemError } from '../../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../../ffi/poll.ts';
import { acceptUnix, listenUnix, MessageBuffer, peerCredentials } from '../../ffi/unix-socket.ts';
import { BoundedLog } from '../../vfio-user/bounded-log.ts';
import { ControlConnection, type ControlHandler } from './control-connection.ts';

const CLIENTS_MAX = 32;
const BACKLOG = 128;
/** Connections that are taken in one turn of the event loop; what waits comes in the next. */
const ACCEPTS_A_TURN = 8;
/** Where no connection can be taken (no descriptor is left): how long until the next try. */
const ACCEPT_AGAIN_MS = 100;
const RECEIVE_BYTES = 64 * 1024;

export interface ControlCounters {
  clients: number;
  /** Clients that were sent away: another user's, or one too many. */
  refused: number;
}

export class ControlSocket implements Disposable {
  readonly path: string;
  readonly counters: ControlCounters = { clients: 0, refused: 0 };
  readonly #handler: ControlHandler;
  readonly #log: BoundedLog;
  readonly #listening: number;
  readonly #watch: ReadableWatch;
  readonly #buffer = new MessageBuffer(RECEIVE_BYTES);
  readonly #clients = new Set<ControlConnection>();
  #again: NodeJS.Timeout | undefined;
  #closed = false;

  /** @throws RangeError where the path is too long; SystemError where it is taken */
  constructor(path: string, handler: ControlHandler, log: (message: string) => void) {
    this.path = path;
    this.#handler = handler;
    this.#log = new BoundedLog((message) => log(`control socket: ${message}`));
    this.#listening = listenUnix(path, BACKLOG);
    chmodSync(path, 0o600);
    this.#watch = watchReadable(this.#listening, () => this.#accept());
  }

  /** Clients that are connected. */
  get clients(): number {
    return this.#clients.size;
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#again);
    this.#watch.close();
    close(this.#listening);
    for (const client of [...this.#clients]) client.refuse('the host ends');
    unlinkSync(this.path);
  }

  #accept(): void {
    for (let turn = 0; turn < ACCEPTS_A_TURN && !this.#closed; turn++) {
      const connection = this.#next();
      if (connection === undefined) return;
      this.#greet(connection);
    }
  }

  #next(): number | undefined {
    try {
      return acceptUnix(this.#listening);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#log.log(`cannot take a connection now: ${error.message}`);
      this.#watch.pause();
      this.#again = setTimeout(() => this.#watch.resume(), ACCEPT_AGAIN_MS);
      return undefined;
    }
  }

  #greet(connection: number): void {
    const { uid, pid } = peerCredentials(connection);
    const full = this.#clients.size >= CLIENTS_MAX;
    const client: ControlConnection = new ControlConnection(
      connection,
      this.#buffer,
      this.#handler,
      () => this.#clients.delete(client),
    );
    this.#clients.add(client);
    this.counters.clients++;
    const own = process.geteuid?.() ?? 0;
    if (uid !== own) {
      this.counters.refused++;
      this.#log.log(`refused process ${pid} of user ${uid}: it is for user ${own} alone`);
      client.refuse(`expected user ${own}, who started this host, got user ${uid}`);
    } else if (full) {
      this.counters.refused++;
      this.#log.log(`refused process ${pid}: ${CLIENTS_MAX} clients are there already`);
      client.refuse(`expected at most ${CLIENTS_MAX} clients at a time, got one more: try again`);
    }
  }
}
