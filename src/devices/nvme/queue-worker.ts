import type { DmaPort } from '../../pci/index.ts';
import { ErrorEvent } from './admin/async-events.ts';
import { DmaBatch } from './dma-batch.ts';
import type { IoPath } from './io/io-path.ts';
import { PollRhythm } from './poll-rhythm.ts';
import type { CompletionQueue } from './queue/completion-queue.ts';
import type { QueueSet } from './queue/queue-set.ts';
import type { ShadowDoorbells } from './queue/shadow-doorbells.ts';
import { BURST_ENTRIES, type SubmissionQueue } from './queue/submission-queue.ts';

/** Entries that a turn takes from all queues together. */
const TURN_ENTRIES = 256;

export interface QueueWorkerHost {
  readonly dma: DmaPort;
  readonly nowNs: number;
  readonly pageBytes: number;
  /** Entries of one queue that arbitration takes in a row (feature 01h). */
  readonly burst: number;
  /** Completions are held until several are due. */
  coalesces(vector: number): boolean;
  /** How long shadow doorbells are polled after the last that happened. */
  readonly pollNs: number;
  /** An admin command, 64 bytes of its own. */
  admin(entry: Uint8Array): void;
  interrupt(vector: number): void;
  /** Sleeps; see Clock. */
  pause(ns: number): void;
  /** Whether the host is to be heard when it consumes, for a level is up. */
  readonly levelUp: boolean;
  invalidDoorbell(info: number): void;
  /** A queue's memory does not answer (CSTS.CFS): `why` for the log. */
  fatal(why: string): void;
}

/**
 * A turn of the controller: what the doorbells say, entries of all queues in one DMA, the commands,
 * and the completions that are due in one DMA, then their interrupts.
 */
export class QueueWorker {
  readonly #host: QueueWorkerHost;
  readonly #queues: QueueSet;
  readonly #io: IoPath;
  #shadow: ShadowDoorbells | undefined;
  #shadowLost = false;
  readonly #fetches = new DmaBatch<SubmissionQueue>();
  readonly #fetched: SubmissionQueue[] = [];
  readonly #counts: number[] = [];
  readonly #posts = new DmaBatch<CompletionQueue>();
  readonly #adminEntries: Uint8Array[] = [];
  /** Where arbitration begins. */
  #first = 0;
  readonly #rhythm = new PollRhythm();

  constructor(host: QueueWorkerHost, queues: QueueSet, io: IoPath) {
    this.#host = host;
    this.#queues = queues;
    this.#io = io;
  }

  /** The controller was reset. */
  forget(): void {
    this.shadow = undefined;
    // Of a turn that was broken off, these may be left.
    this.#fetched.length = 0;
    this.#counts.length = 0;
    this.#adminEntries.length = 0;
  }

  /**
   * The host wrote a doorbell register. With shadow doorbells that of an I/O queue is but a call: the
   * value in memory is newer.
   */
  doorbell(index: number, value: number): void {
    const queue = index >>> 1;
    const isHead = (index & 1) !== 0;
    if (queue > 0 && this.#liveShadow !== undefined) {
      const there = isHead ? this.#queues.completion[queue] : this.#queues.submission[queue];
      if (there === undefined) this.#host.invalidDoorbell(ErrorEvent.invalidDoorbellRegister);
      else this.#rhythm.active(this.#host.nowNs);
      return;
    }
    if (isHead) this.#consumed(queue, value);
    else this.#announced(queue, value);
  }

  /** @returns whether another turn is to follow */
  turn(): boolean {
    const { dma, nowNs } = this.#host;
    this.#pollShadow(dma, nowNs);
    const taken = this.#fetch(dma, nowNs);
    if (taken > 0) {
      this.#rhythm.submitted(nowNs);
      this.#keepQuiet(dma);
    }
    if (taken > 0 || this.#io.ready) this.#io.run(dma, this.#host.pageBytes);
    for (const entry of this.#adminEntries) this.#host.admin(entry);
    this.#adminEntries.length = 0;
    const afterNs = this.#host.nowNs;
    this.#post(dma, afterNs);
    if (!this.#staysAwake(dma, afterNs)) return false;
    const pauseNs = this.#rhythm.pauseNs(afterNs);
    if (pauseNs > 0) this.#host.pause(pauseNs);
    return true;
  }

  /** Posts what a completion queue holds, as far as it has room; the turn then sends its interrupt. */
  postHeld(queue: CompletionQueue): void {
    if (queue.dead) return;
    queue.post(this.#posts, this.#host.nowNs);
    this.#posts.write(this.#host.dma, this.#postRefused);
  }

  get shadow(): ShadowDoorbells | undefined {
    return this.#shadow;
  }

  set shadow(shadow: ShadowDoorbells | undefined) {
    this.#shadow = shadow;
    this.#shadowLost = false;
  }

  /**
   * The shadow doorbells, where they work. Once they have failed, the host believes what the event
   * indices last said, and may never ring again: only a reset helps.
   */
  get #liveShadow(): ShadowDoorbells | undefined {
    const shadow = this.#shadow;
    if (shadow?.failed !== true) return shadow;
    if (!this.#shadowLost) this.#host.fatal('the shadow doorbell buffers cannot be reached');
    this.#shadowLost = true;
    return undefined;
  }

  #announced(id: number, tail: number): void {
    const queue = this.#queues.submission[id];
    if (queue === undefined) {
      this.#host.invalidDoorbell(ErrorEvent.invalidDoorbellRegister);
    } else if (tail >= queue.size) {
      this.#host.invalidDoorbell(ErrorEvent.invalidDoorbellValue);
    } else {
      queue.tail = tail;
    }
  }

  #consumed(id: number, head: number): void {
    const queue = this.#queues.completion[id];
    if (queue === undefined) {
      this.#host.invalidDoorbell(ErrorEvent.invalidDoorbellRegister);
    } else if (queue.consume(head)) {
      this.#rhythm.active(this.#host.nowNs);
    } else {
      this.#host.invalidDoorbell(ErrorEvent.invalidDoorbellValue);
    }
  }

  /** Takes tails and heads out of host memory. @returns whether one of them had moved */
  #pollShadow(dma: DmaPort, nowNs: number): boolean {
    this.#liveShadow?.read(dma);
    const shadow = this.#liveShadow;
    if (shadow === undefined) return false;
    let moved = false;
    for (const queue of this.#queues.submissions) {
      if (queue.id === 0) continue;
      const tail = shadow.tail(queue.id);
      if (tail === queue.tail || tail === queue.refusedTail) continue;
      moved = true;
      this.#announced(queue.id, tail);
      // A bad value is told of once, not at each look.
      queue.refusedTail = tail === queue.tail ? -1 : tail;
    }
    for (const queue of this.#queues.completions) {
      if (queue.id === 0) continue;
      const head = shadow.head(queue.id);
      if (head === queue.head || head === queue.refusedHead) continue;
      moved = true;
      this.#consumed(queue.id, head);
      queue.refusedHead = head === queue.head ? -1 : head;
    }
    if (moved) this.#rhythm.active(nowNs);
    return moved;
  }

  /** Round robin (§4.13.1), a bounded burst a queue: entries of all queues in one batch. */
  #fetch(dma: DmaPort, nowNs: number): number {
    const { submissions } = this.#queues;
    const count = submissions.length;
    const burst = Math.min(BURST_ENTRIES, this.#host.burst);
    let room = Math.min(this.#io.room, TURN_ENTRIES);
    for (let n = 0; n < count; n++) {
      const queue = submissions[(this.#first + n) % count] as SubmissionQueue;
      const wanted = Math.min(queue.waiting, burst, queue.id === 0 ? burst : room);
      if (wanted === 0) continue;
      if (queue.id !== 0) room -= wanted;
      queue.addTo(this.#fetches, wanted);
      this.#fetched.push(queue);
      this.#counts.push(wanted);
    }
    if (this.#fetched.length === 0) return 0;
    this.#first = (this.#first + 1) % count;
    this.#fetches.read(dma, this.#fetchRefused);
    let taken = 0;
    for (let n = 0; n < this.#fetched.length; n++) {
      const queue = this.#fetched[n] as SubmissionQueue;
      if (queue.dead) continue;
      const entries = this.#counts[n] as number;
      taken += entries;
      queue.completions.submitted(entries, nowNs);
      for (let at = 0; at < entries; at++) {
        if (queue.id === 0) this.#takeAdmin(queue, at);
        else this.#io.take(queue, at, nowNs);
      }
    }
    this.#fetched.length = 0;
    this.#counts.length = 0;
    return taken;
  }

  readonly #fetchRefused = (queue: SubmissionQueue): void => {
    if (queue.dead) return;
    queue.dead = true;
    this.#host.fatal(`submission queue ${queue.id} cannot be read`);
  };

  #takeAdmin(queue: SubmissionQueue, at: number): void {
    const words = new Uint32Array(16);
    queue.take(at, words);
    this.#adminEntries.push(new Uint8Array(words.buffer));
  }

  /** The host need not ring while this side looks by itself. */
  #keepQuiet(dma: DmaPort): void {
    const shadow = this.#liveShadow;
    if (shadow === undefined) return;
    let due = shadow.armed;
    for (const queue of this.#queues.submissions) due ||= queue.id > 0 && shadow.stale(queue);
    if (due) shadow.disarm(this.#queues.submission, this.#queues.completion, dma);
  }

  /** Completions that are due go to host memory; the interrupts come after them. */
  #post(dma: DmaPort, nowNs: number): void {
    for (const queue of this.#queues.completions) {
      const atOnce = queue.id === 0 || !this.#host.coalesces(queue.vector);
      if (queue.postDue(atOnce, nowNs) && queue.post(this.#posts, nowNs) > 0) {
        this.#rhythm.active(nowNs);
      }
    }
    this.#posts.write(dma, this.#postRefused);
    for (const queue of this.#queues.completions) {
      if (!queue.interruptDue(nowNs)) continue;
      this.#rhythm.interrupted(queue.interrupted(), nowNs);
      this.#host.interrupt(queue.vector);
    }
  }

  readonly #postRefused = (queue: CompletionQueue): void => {
    if (queue.dead) return;
    queue.dead = true;
    this.#host.fatal(`completion queue ${queue.id} cannot be written`);
  };

  #staysAwake(dma: DmaPort, nowNs: number): boolean {
    if (this.#hasWork()) return true;
    let headWanted = this.#host.levelUp;
    for (const queue of this.#queues.completions) {
      if (queue.unsignalled) return true;
      if (queue.held === 0 || queue.dead) continue;
      if (!queue.full) return true;
      headWanted = true;
    }
    const shadow = this.#liveShadow;
    if (shadow === undefined) return false;
    if (this.#rhythm.quietNs(nowNs) < this.#host.pollNs) return true;
    if (!shadow.armed || headWanted) {
      shadow.arm(this.#queues.submission, this.#queues.completion, headWanted, dma);
      return this.#pollShadow(dma, nowNs);
    }
    return false;
  }

  #hasWork(): boolean {
    const { room } = this.#io;
    for (const queue of this.#queues.submissions) {
      if ((queue.id === 0 || room > 0) && queue.waiting > 0) return true;
    }
    return false;
  }
}
