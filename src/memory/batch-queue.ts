import { AioQueue } from '../ffi/aio.ts';
import { SystemError } from '../ffi/system-error.ts';
import { GATE_ENTRIES } from './dma-gate.ts';

/** How long the controller may take for a go; it answers or ends, unless somebody stopped it. */
const ANSWER_MS_MAX = 60_000;

export interface BatchQueueOptions {
  /** Told once, where the kernel cannot take batches. */
  readonly onFallback?: (why: string) => void;
  /** How long the controller may take for a go. */
  readonly answerMsMax?: number;
  readonly newQueue?: () => AioQueue;
}

/** The kernel's queue of a batch: opened when it is first wanted, and done without where there is none. */
export class BatchQueue {
  readonly #onFallback: (why: string) => void;
  readonly #newQueue: () => AioQueue;
  readonly #answerMsMax: number;
  #queue: AioQueue | undefined;
  #wanted = true;
  #told = false;

  constructor({
    onFallback = () => {},
    answerMsMax = ANSWER_MS_MAX,
    newQueue = () => new AioQueue(GATE_ENTRIES),
  }: BatchQueueOptions) {
    this.#onFallback = onFallback;
    this.#answerMsMax = answerMsMax;
    this.#newQueue = newQueue;
  }

  /** Undefined where the kernel has none to give, which it is asked for once. */
  opened(): AioQueue | undefined {
    if (this.#queue !== undefined || !this.#wanted) return this.#queue;
    try {
      this.#queue = this.#newQueue();
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#wanted = false;
      this.#tell(error);
    }
    return this.#queue;
  }

  /** @returns how many were sent: fewer than `count` where the kernel takes no more. */
  send(queue: AioQueue, count: number): number {
    let sent = 0;
    try {
      while (sent < count) sent += queue.submit(sent, count);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#tell(error);
    }
    return sent;
  }

  /** Waits for all that were sent. @returns why some are still under way, or undefined */
  unanswered(queue: AioQueue, sent: number): string | undefined {
    try {
      if (queue.wait(sent, this.#answerMsMax) === sent) return undefined;
      return `no answer within ${this.#answerMsMax} ms`;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      return error.message;
    }
  }

  /** @param idle false where something is still under way: then it ends with the process. */
  close(idle: boolean): void {
    this.#wanted = false;
    if (idle) this.#queue?.close();
    this.#queue = undefined;
  }

  #tell(error: SystemError): void {
    if (this.#told) return;
    this.#told = true;
    this.#onFallback(
      `expected the kernel to take DMA in batches, got ${error.message}: each access goes alone, ` +
        'which is slower (EAGAIN: raise fs.aio-max-nr)',
    );
  }
}
