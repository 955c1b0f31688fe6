/** The other end of the control socket: what the command line uses, and what any program may. */
import { close, SystemError } from '../../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../../ffi/poll.ts';
import { connectUnix, MessageBuffer } from '../../ffi/unix-socket.ts';
import type { ControlOperation, ControlOperations } from './control-request.ts';
import { LINE_BYTES_MAX } from './control-request.ts';
import { LineSender } from './line-sender.ts';
import { LineSplitter } from './line-splitter.ts';
import type { ControlAnswers } from './operations.ts';

/** An answer may be longer than a request: a host with thousands of VMs. */
const ANSWER_BYTES_MAX = 64 * LINE_BYTES_MAX;

/** The host refused what was asked, or was no host. */
export class ControlError extends Error {
  override readonly name = 'ControlError';
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
  line: ((line: unknown) => void) | undefined;
}

export class ControlClient implements Disposable {
  readonly #fd: number;
  readonly #watch: ReadableWatch;
  readonly #buffer = new MessageBuffer(64 * 1024);
  readonly #lines = new LineSplitter(ANSWER_BYTES_MAX);
  readonly #out: LineSender;
  readonly #waiting = new Map<number, Waiting>();
  readonly #gone = Promise.withResolvers<ControlError>();
  #nextId = 1;
  #ended: ControlError | undefined;

  /** @throws ControlError where nobody listens there, or it is not for this user */
  constructor(path: string) {
    try {
      this.#fd = connectUnix(path);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      throw new ControlError(`expected a host that listens at ${path}, got ${error.message}`);
    }
    this.#watch = watchReadable(this.#fd, () => this.#read());
    this.#out = new LineSender(this.#fd, this.#watch, ANSWER_BYTES_MAX, (why) => {
      // Who was sent away finds the reason there, before it learns that its own words went nowhere.
      if (this.#ended === undefined) this.#read();
      this.#end(why);
    });
  }

  /** Resolves when the connection has ended, with why. */
  get gone(): Promise<ControlError> {
    return this.#gone.promise;
  }

  /**
   * Asks for one thing. A descriptor goes beside it, and may be closed when this resolves.
   * @param line told of each line that follows, where the operation has such
   * @throws ControlError with the host's words
   */
  async ask<Op extends ControlOperation>(
    op: Op,
    fields: ControlOperations[Op],
    options: { readonly descriptor?: number; readonly line?: (line: unknown) => void } = {},
  ): Promise<ControlAnswers[Op]> {
    if (this.#ended !== undefined) throw this.#ended;
    const id = this.#nextId++;
    const request = `${JSON.stringify({ id, op, ...fields })}\n`;
    if (Buffer.byteLength(request) > LINE_BYTES_MAX) {
      throw new ControlError(
        `expected a request of at most ${LINE_BYTES_MAX} bytes, got a longer one`,
      );
    }
    return (await new Promise<unknown>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, line: options.line });
      this.#out.send(request, options.descriptor);
    })) as ControlAnswers[Op];
  }

  [Symbol.dispose](): void {
    this.#end('closed by us');
  }

  #read(): void {
    let received: ReturnType<MessageBuffer['receive']>;
    try {
      received = this.#buffer.receive(this.#fd);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#end(error.message);
      return;
    }
    if (received === undefined) return;
    for (const descriptor of received.descriptors) close(descriptor);
    if (received.count === 0) {
      this.#end('it closed the connection');
      return;
    }
    this.#lines.push(this.#buffer.bytes.subarray(0, received.count));
    try {
      for (let line = this.#lines.next(); line !== undefined; line = this.#lines.next()) {
        this.#take(JSON.parse(line));
        if (this.#ended !== undefined) return;
      }
    } catch (error) {
      this.#end(`it sent what is no answer: ${error instanceof Error ? error.message : error}`);
    }
  }

  #take(answer: { id?: unknown; value?: unknown; error?: unknown; line?: unknown }): void {
    if (answer.id === null && typeof answer.error === 'string') {
      this.#end(answer.error);
      return;
    }
    const waiting = this.#waiting.get(Number(answer.id));
    if (answer.line !== undefined) {
      waiting?.line?.(answer.line);
      return;
    }
    // What follows still finds it.
    if (waiting?.line === undefined) this.#waiting.delete(Number(answer.id));
    if (typeof answer.error === 'string') waiting?.reject(new ControlError(answer.error));
    else waiting?.resolve(answer.value);
  }

  #end(why: string): void {
    if (this.#ended !== undefined) return;
    this.#ended = new ControlError(`the host has ended the connection: ${why}`);
    this.#watch.close();
    this.#out.close();
    close(this.#fd);
    for (const { reject } of this.#waiting.values()) reject(this.#ended);
    this.#waiting.clear();
    this.#gone.resolve(this.#ended);
  }
}
