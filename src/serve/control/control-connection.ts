import { close, peerHasEnded, SystemError } from '../../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../../ffi/poll.ts';
import type { MessageBuffer } from '../../ffi/unix-socket.ts';
import {
  type ControlRequest,
  LINE_BYTES_MAX,
  parseRequest,
  RequestError,
} from './control-request.ts';
import { LineSender } from './line-sender.ts';
import { LineSplitter } from './line-splitter.ts';
import { TokenBucket } from './token-bucket.ts';

/** Answers, and lines of the record, that a client has not read. */
const UNREAD_BYTES_MAX = 4 * 1024 * 1024;
/** Descriptors that came and that no request has taken. */
const DESCRIPTORS_MAX = 4;
/** Requests of one client: so many at once, then so many a second. */
const BURST = 64;
const RATE = 100;
/** A client that says nothing for so long, and follows nothing, has its place taken away. */
const IDLE_MS = 60_000;

/** What does the work of a request. */
export interface ControlHandler {
  /**
   * @param io `descriptor` takes the one that came with the request, which is open until this is over, and throws
   *   where none did; `follow` begins to tell lines of its own accord, in place of what was followed before, and
   *   takes what stops that when the client goes
   * @throws Error with the words for the client
   */
  handle(
    request: ControlRequest,
    io: {
      readonly descriptor: () => number;
      readonly follow: (begin: (tell: (value: unknown) => void) => () => void) => void;
    },
  ): Promise<unknown>;
}

/**
 * One client of the control socket. Its requests are done one after the other, in their order: while one is being
 * done nothing more is read of it, so that it can never have more than a line of ours in work. When it goes, what
 * it asked for is still done, and its descriptors are closed.
 */
export class ControlConnection {
  readonly #fd: number;
  readonly #buffer: MessageBuffer;
  readonly #handler: ControlHandler;
  readonly #left: (why: string) => void;
  readonly #watch: ReadableWatch;
  readonly #lines = new LineSplitter(LINE_BYTES_MAX);
  readonly #out: LineSender;
  readonly #tokens = new TokenBucket(BURST, RATE);
  readonly #descriptors: number[] = [];
  #idle: NodeJS.Timeout | undefined;
  #later: NodeJS.Timeout | undefined;
  #stopFollowing: (() => void) | undefined;
  #working = false;
  #ended = false;

  /**
   * @param buffer what all connections receive into
   * @param left told once that the client is gone, or was sent away
   */
  constructor(
    fd: number,
    buffer: MessageBuffer,
    handler: ControlHandler,
    left: (why: string) => void,
  ) {
    this.#fd = fd;
    this.#buffer = buffer;
    this.#handler = handler;
    this.#left = left;
    this.#watch = watchReadable(fd, () => this.#read());
    this.#out = new LineSender(fd, this.#watch, UNREAD_BYTES_MAX, (why) => this.end(why));
    this.#rest();
  }

  /** A last word, which may not get there. */
  refuse(words: string): void {
    this.#answer({ id: null, error: words });
    this.end(words);
  }

  end(why: string): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#idle);
    clearTimeout(this.#later);
    this.#stopFollowing?.();
    this.#watch.close();
    this.#out.close();
    for (const descriptor of this.#descriptors.splice(0)) close(descriptor);
    close(this.#fd);
    this.#left(why);
  }

  #read(): void {
    let received: ReturnType<MessageBuffer['receive']>;
    try {
      received = this.#buffer.receive(this.#fd);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.end(error.message);
      return;
    }
    if (received === undefined) return;
    this.#descriptors.push(...received.descriptors);
    if (received.count === 0) {
      this.end('it closed the connection');
      return;
    }
    if (this.#descriptors.length > DESCRIPTORS_MAX) {
      this.refuse(`expected at most ${DESCRIPTORS_MAX} descriptors that wait, got more`);
      return;
    }
    this.#lines.push(this.#buffer.bytes.subarray(0, received.count));
    void this.#work();
  }

  /** Never throws: an error of ours is the client's answer. */
  async #work(): Promise<void> {
    if (this.#working) return;
    this.#working = true;
    this.#watch.pause();
    clearTimeout(this.#idle);
    try {
      for (let line = this.#line(); line !== undefined; line = this.#line()) {
        await this.#tokenTaken();
        await this.#serve(line);
      }
    } finally {
      this.#working = false;
      if (!this.#ended) {
        this.#watch.resume();
        this.#rest();
      }
    }
  }

  #line(): string | undefined {
    if (this.#ended) return undefined;
    try {
      return this.#lines.next();
    } catch (error) {
      this.refuse(error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }

  /** Waits until the client may ask again. It is looked after whether it is still there. */
  async #tokenTaken(): Promise<void> {
    for (let wait = this.#tokens.take(); wait > 0; wait = this.#tokens.take()) {
      await new Promise<void>((resolve) => {
        this.#later = setTimeout(resolve, wait);
      });
      if (!this.#ended && peerHasEnded(this.#fd)) this.end('it closed the connection');
      if (this.#ended) return;
    }
  }

  async #serve(line: string): Promise<void> {
    if (this.#ended) return;
    let id: number | null = null;
    const taken: number[] = [];
    try {
      const request = parseRequest(line);
      id = request.id;
      const value = await this.#handler.handle(request, {
        descriptor: () => {
          const descriptor = this.#descriptors.shift();
          if (descriptor === undefined) {
            throw new Error('expected a descriptor beside the request (SCM_RIGHTS), got none');
          }
          taken.push(descriptor);
          return descriptor;
        },
        follow: (begin) => this.#follow(request.id, begin),
      });
      this.#answer({ id, value });
    } catch (error) {
      if (error instanceof RequestError) id = error.id;
      this.#answer({ id, error: error instanceof Error ? error.message : String(error) });
    } finally {
      for (const descriptor of taken) close(descriptor);
    }
  }

  #follow(id: number, begin: (tell: (value: unknown) => void) => () => void): void {
    if (this.#ended) return;
    this.#stopFollowing?.();
    this.#stopFollowing = begin((line) => this.#answer({ id, line }));
  }

  #answer(answer: object): void {
    if (!this.#ended) this.#out.send(`${JSON.stringify(answer)}\n`);
  }

  #rest(): void {
    if (this.#stopFollowing !== undefined) return;
    this.#idle = setTimeout(() => this.refuse(`nothing was asked for ${IDLE_MS} ms`), IDLE_MS);
    this.#idle.unref();
  }
}
