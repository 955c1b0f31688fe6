import type { DmaPort, Iova } from '../../../pci/index.ts';
import { DmaAbort, fullFence } from '../../../pci/index.ts';
import type { CompletionQueue } from './completion-queue.ts';
import type { SubmissionQueue } from './submission-queue.ts';

/** A submission queue's tail and a completion queue's head, 4 bytes each. */
const PAIR_BYTES = 8;

/**
 * Doorbells in host memory (Doorbell Buffer Config, NVMe 1.4 §5.7 and §7.13): the host stores tails
 * and heads to the *shadow* buffer, and to the real doorbell only where the new value passes the one
 * in the *event index* buffer. As long as this side polls, the indices are set so that the host never
 * rings, and a submission is a store to memory. Before it stops polling it *arms* them.
 *
 * Arming loses no submission. The host stores its tail, has a full barrier, and then loads the event
 * index; this side stores the index, has a full barrier, and then loads the tail ({@link arm}). Of two
 * such sequences at least one sees the other's store: either the host sees the armed index and rings,
 * or this side sees the tail and does not go to sleep.
 *
 * The barrier is fullFence; the two DMAs are calls out of JavaScript. In sealed memory each DMA is a
 * system call that takes the page out of the cache (its write) or writes it back (its read) under the
 * page's lock, so that they are ordered against the vCPU's accesses anyway.
 */
export class ShadowDoorbells {
  readonly #shadow: Iova;
  readonly #events: Iova;
  readonly #values: Uint32Array;
  readonly #indices: Uint32Array;
  #shadowBytes: Uint8Array;
  #eventBytes: Uint8Array;
  #queues = 0;
  #armed = true;
  /** A DMA was refused: the buffers are the host's to keep. */
  failed = false;

  /** @param queues most I/O queues */
  constructor(shadow: Iova, events: Iova, queues: number) {
    this.#shadow = shadow;
    this.#events = events;
    this.#values = new Uint32Array(2 * (queues + 1));
    this.#indices = new Uint32Array(2 * (queues + 1));
    this.#shadowBytes = new Uint8Array(0);
    this.#eventBytes = this.#shadowBytes;
  }

  /** Whether the host rings at its next submission. */
  get armed(): boolean {
    return this.#armed;
  }

  /**
   * Both doorbells of a queue are as when it was created; the host may use them when the command that
   * it waits for is complete.
   */
  enter(queue: number, tail: number, head: number, dma: DmaPort): void {
    if (queue > this.#queues) this.#cover(queue);
    this.#values[2 * queue] = tail;
    this.#values[2 * queue + 1] = head;
    const at = queue * PAIR_BYTES;
    this.#write(dma, this.#shadow, this.#bytes(this.#values).subarray(at, at + PAIR_BYTES), at);
    this.#indices[2 * queue] = tail;
    this.#indices[2 * queue + 1] = head;
    this.#write(dma, this.#events, this.#bytes(this.#indices).subarray(at, at + PAIR_BYTES), at);
  }

  /** Takes what the host has stored. */
  read(dma: DmaPort): void {
    if (this.#queues === 0 || this.failed) return;
    try {
      dma.readInto(this.#shadow, this.#shadowBytes);
    } catch (error) {
      this.#refused(error);
    }
  }

  /** As read last. */
  tail(queue: number): number {
    return this.#values[2 * queue] as number;
  }

  /** As read last. */
  head(queue: number): number {
    return this.#values[2 * queue + 1] as number;
  }

  /**
   * The host rings at its next submission, and where `headWanted` also when it next consumes; then
   * reads what it had stored until then.
   */
  arm(
    submission: readonly (SubmissionQueue | undefined)[],
    completion: readonly (CompletionQueue | undefined)[],
    headWanted: boolean,
    dma: DmaPort,
  ): void {
    for (let queue = 1; queue <= this.#queues; queue++) {
      this.#indices[2 * queue] = submission[queue]?.tail ?? 0;
      const head = completion[queue]?.head ?? 0;
      this.#indices[2 * queue + 1] = headWanted ? head : behind(head);
    }
    this.#write(dma, this.#events, this.#eventBytes, 0);
    fullFence();
    this.#armed = true;
    this.read(dma);
  }

  /**
   * The host need not ring: the indices lie just behind it. They are to be moved on before it comes
   * round to them, which would cost no more than a needless ring.
   */
  disarm(
    submission: readonly (SubmissionQueue | undefined)[],
    completion: readonly (CompletionQueue | undefined)[],
    dma: DmaPort,
  ): void {
    for (let queue = 1; queue <= this.#queues; queue++) {
      this.#indices[2 * queue] = behind(submission[queue]?.tail ?? 0);
      this.#indices[2 * queue + 1] = behind(completion[queue]?.head ?? 0);
    }
    this.#write(dma, this.#events, this.#eventBytes, 0);
    this.#armed = false;
  }

  /** Whether a queue has come half round since its index was set. */
  stale(queue: SubmissionQueue): boolean {
    const index = this.#indices[2 * queue.id] as number;
    const ahead = queue.tail - index;
    return (ahead < 0 ? ahead + queue.size : ahead) > queue.size >>> 1;
  }

  #cover(queue: number): void {
    this.#queues = queue;
    const bytes = (queue + 1) * PAIR_BYTES;
    this.#shadowBytes = this.#bytes(this.#values).subarray(0, bytes);
    this.#eventBytes = this.#bytes(this.#indices).subarray(0, bytes);
  }

  #bytes(words: Uint32Array): Uint8Array {
    return new Uint8Array(words.buffer);
  }

  #write(dma: DmaPort, base: Iova, bytes: Uint8Array, at: number): void {
    if (this.failed || bytes.length === 0) return;
    try {
      dma.writeFrom(typeof base === 'number' ? base + at : base + BigInt(at), bytes);
    } catch (error) {
      this.#refused(error);
    }
  }

  #refused(error: unknown): void {
    if (!(error instanceof DmaAbort)) throw error;
    this.failed = true;
  }
}

/**
 * The index that a host at `value` passes last: it rings where the index is in [old, new), counted in
 * 16 bits (Linux's nvme_dbbuf_need_event).
 */
function behind(value: number): number {
  return (value - 1) & 0xffff;
}
