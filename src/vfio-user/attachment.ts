/**
 * Brings a client's connection under libvfio-user, which takes connections only from a listening
 * socket of its own and answers the first message blocking.
 *
 * Its socket is made in a private directory that is removed at once; an O_PATH descriptor still
 * leads there. To attach, we connect to it ourselves, say the client's version message (which has
 * come whole, so nothing blocks), take the answer, and then dup3 the client's connection over the
 * library's descriptor. From then on the library talks to the client directly.
 */
import { closeSync, mkdtempSync, openSync, rmdirSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { close, closeAllOnExec, dup3, SystemError } from '../ffi/libc.ts';
import { socketPair } from '../ffi/socket-pair.ts';
import { connectUnix, MessageBuffer } from '../ffi/unix-socket.ts';
import { VfuContext, type VfuHandlers, type VfuShape } from './libvfio-user.ts';
import type { TakenMessage } from './message-guard.ts';
import { DATA_BYTES_MAX, ERRNO, HEADER_BYTES } from './protocol.ts';

const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;

export class Attachment {
  readonly context: VfuContext;
  readonly #privateSocket: number;
  /** The library's own name of its listening socket. */
  readonly #listening: number;
  readonly #message = new MessageBuffer(8192);

  /** @throws SystemError */
  constructor(library: string, shape: VfuShape, handlers: VfuHandlers) {
    const directory = mkdtempSync(join(tmpdir(), 'sealbus-'));
    const path = join(directory, 's');
    try {
      this.context = new VfuContext(library, path, shape, handlers);
      try {
        this.#privateSocket = openSync(path, O_PATH | O_CLOEXEC);
      } finally {
        unlinkSync(path);
      }
    } finally {
      rmdirSync(directory);
    }
    this.#listening = this.context.descriptor;
    closeAllOnExec();
  }

  /**
   * Whether the library has let go of the client. It may do so without a word: where an answer
   * cannot be sent, vfu_run_ctx counts the request as worked on.
   */
  get detached(): boolean {
    return this.context.descriptor === this.#listening;
  }

  /**
   * Gives `connection` to the library. @returns 0 after the client has its answer, or the errno that
   * the library refused the version message with
   */
  attach(connection: number, version: Uint8Array): number {
    const message = this.#message;
    const inner = connectUnix(`/proc/self/fd/${this.#privateSocket}`);
    try {
      message.bytes.set(version);
      message.send(inner, version.length);
      let refused: SystemError | undefined;
      try {
        this.context.attach();
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        refused = error;
      }
      if (refused !== undefined) return refused.errno;
      const answered = message.receive(inner)?.count ?? 0;
      if (answered < HEADER_BYTES) return ERRNO.EPROTO;
      dup3(connection, this.context.descriptor);
      const length = this.#lowerDataBytes(answered);
      // A client that has gone already is found by the first vfu_run_ctx.
      message.send(connection, length);
      return 0;
    } catch (error) {
      if (error instanceof SystemError && error.syscall === 'sendmsg') return 0;
      throw error;
    } finally {
      close(inner);
    }
  }

  /**
   * Lets the library work on a message that has been taken off the socket, with descriptors: for
   * this one message its descriptor names a socket pair of ours. @returns the errno of the run, or 0
   */
  runTaken(connection: number, taken: TakenMessage): number {
    if (this.detached) {
      for (const descriptor of taken.descriptors) close(descriptor);
      return ERRNO.ENOTCONN;
    }
    const [inner, outer] = socketPair();
    const at = this.context.descriptor;
    try {
      taken.message.send(inner, taken.length, taken.descriptors);
      dup3(outer, at);
      const errno = this.context.run();
      // Where the library has let go of the client, that number is not ours any more.
      if (errno === ERRNO.ENOTCONN || this.detached) return ERRNO.ENOTCONN;
      dup3(connection, at);
      // The library does not mark what it receives.
      if (taken.descriptors.length > 0) closeAllOnExec();
      if (errno !== 0) return errno;
      const reply = this.#message.receive(inner);
      if (reply === undefined) return 0;
      return this.#message.send(connection, reply.count) === reply.count ? 0 : ERRNO.EPROTO;
    } catch (error) {
      // The client has gone.
      if (error instanceof SystemError && error.syscall === 'sendmsg') return error.errno;
      throw error;
    } finally {
      for (const descriptor of taken.descriptors) close(descriptor);
      close(inner);
      close(outer);
    }
  }

  destroy(): void {
    this.context.destroy();
    closeSync(this.#privateSocket);
  }

  /** Puts our own limit into the answer in place of the library's. @returns the new length */
  #lowerDataBytes(length: number): number {
    const { bytes, view } = this.#message;
    const start = HEADER_BYTES + 4;
    const text = new TextDecoder().decode(bytes.subarray(start, length - 1));
    const limited = text.replace(
      /"max_data_xfer_size"\s*:\s*\d+/,
      `"max_data_xfer_size":${DATA_BYTES_MAX}`,
    );
    const encoded = new TextEncoder().encode(`${limited}\0`);
    bytes.set(encoded, start);
    view.setUint32(4, start + encoded.length, true);
    return start + encoded.length;
  }
}
