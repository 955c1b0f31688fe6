import type { CompletionPoint, Iova } from '../../../pci/index.ts';
import type { DmaBatch } from '../dma-batch.ts';
import { iovaPlus } from '../iova.ts';
import { Coalescing } from './coalescing.ts';

export const COMPLETION_ENTRY_BYTES = 16;
const ENTRY_WORDS = COMPLETION_ENTRY_BYTES / 4;

/**
 * Entries of one DMA. A host may look at the phase bit of an entry while it is written, so an entry
 * must become visible whole: it does, for a copy of a kilobyte or less is done in vectors of at least
 * 16 bytes, and entries are aligned to that. Longer copies may be a string instruction, which has no
 * such order.
 */
const RUN_ENTRIES = 64;

/** How long an interrupt may be left out since the handler of the one before has still to run. */
const UNSIGNALLED_NS_MAX = 100_000;

/** What a completion queue needs of its controller for entries that somebody puts off. */
export interface CompletionQueueHost {
  /** Where entries pass; undefined where nobody may stand in their way. */
  readonly completionPoint: CompletionPoint | undefined;
  readonly nowNs: number;
  /** What is asked of an entry that comes late: whether both of its queues are still those of then. */
  entryStands(completions: CompletionQueue, sqid: number): () => boolean;
  /** Something is to be done in another turn. */
  wake(): void;
}

export interface CompletionQueueOptions {
  /** Entries, from 2. */
  readonly size: number;
  readonly vector: number;
  readonly interrupts: boolean;
  /** Of the commands under way, what makes a batch of completions: above 0 to 1. */
  readonly share: number;
  readonly host: CompletionQueueHost;
}

/**
 * A completion queue (NVMe 1.4 §4.1): physically contiguous, a ring that the host empties. What is
 * complete is first *held*, then *posted* into the ring in host memory, then *signalled*.
 */
export class CompletionQueue {
  readonly id: number;
  /** Entries, from 2. */
  readonly size: number;
  readonly vector: number;
  readonly interrupts: boolean;
  readonly coalescing: Coalescing;
  /** Submission queues that complete here. */
  users = 0;
  /** Its memory did not answer. */
  dead = false;
  /** A shadow doorbell's value that was refused: told of once. */
  refusedHead = -1;
  readonly #base: Iova;
  readonly #host: CompletionQueueHost;
  readonly #point: CompletionPoint | undefined;
  /** What this side has written to the ring. */
  readonly #ring: Uint8Array;
  readonly #words: Uint32Array;
  /** Views of single entries, each made at its first use. */
  readonly #slots: (Uint8Array | undefined)[] = [];
  #tail = 0;
  #head = 0;
  #phase = 1;
  #held: Uint32Array;
  #heldCount = 0;
  // Since the queue was created: exact to 2^53, so they never wrap.
  #posted = 0;
  #consumed = 0;
  /** Of those posted, how many an interrupt was sent for. */
  #signalled = 0;
  #unsignalledSinceNs = 0;
  /** Commands taken for this queue. */
  #submitted = 0;

  constructor(id: number, base: Iova, options: CompletionQueueOptions) {
    const { size, vector, interrupts, share, host } = options;
    this.coalescing = new Coalescing(share);
    this.id = id;
    this.size = size;
    this.#base = base;
    this.#host = host;
    this.#point = host.completionPoint;
    this.vector = vector;
    this.interrupts = interrupts;
    this.#ring = new Uint8Array(size * COMPLETION_ENTRY_BYTES);
    this.#words = new Uint32Array(this.#ring.buffer);
    this.#held = new Uint32Array(64 * 3);
  }

  get head(): number {
    return this.#head;
  }

  get tail(): number {
    return this.#tail;
  }

  get held(): number {
    return this.#heldCount;
  }

  /** Entries that the host has not consumed. */
  get unconsumed(): number {
    return this.#posted - this.#consumed;
  }

  get full(): boolean {
    return this.unconsumed >= this.size - 1;
  }

  /**
   * Whether what is held is to be posted now. @param atOnce where nothing is to be gained by waiting
   */
  postDue(atOnce: boolean, nowNs: number): boolean {
    if (this.#heldCount === 0 || this.full || this.dead) return false;
    const room = this.size - 1 - this.unconsumed;
    return atOnce || this.#heldCount >= room || this.coalescing.due(this.#heldCount, nowNs);
  }

  /** Commands that the host knows to be under way: it has submitted them, and not seen them end. */
  get outstanding(): number {
    return this.#submitted - this.#consumed;
  }

  /** `count` commands have been taken that will complete here. */
  submitted(count: number, nowNs: number): void {
    this.#submitted += count;
    this.coalescing.submitted(this.outstanding, nowNs);
  }

  /**
   * A command is complete; bounded by the commands in flight.
   * @param status bits 15:1 of the entry's last dword, the phase bit being the queue's
   */
  hold(
    sqid: number,
    sqHead: number,
    cid: number,
    status: number,
    dword0: number,
    nowNs: number,
  ): void {
    const gate = this.#point?.gate;
    if (gate === undefined) {
      this.#hold(sqid, sqHead, cid, status, dword0, nowNs);
      return;
    }
    const stands = this.#host.entryStands(this, sqid);
    let atOnce = true;
    gate.pass({
      queue: this.id,
      name: `command ${cid} of queue ${sqid}`,
      deliver: () => {
        if (!stands()) return;
        this.#hold(sqid, sqHead, cid, status, dword0, this.#host.nowNs);
        if (!atOnce) this.#host.wake();
      },
    });
    atOnce = false;
  }

  #hold(
    sqid: number,
    sqHead: number,
    cid: number,
    status: number,
    dword0: number,
    nowNs: number,
  ): void {
    const at = this.#heldCount * 3;
    if (at === this.#held.length) {
      const more = new Uint32Array(2 * at);
      more.set(this.#held);
      this.#held = more;
    }
    this.#held[at] = dword0;
    this.#held[at + 1] = (sqid << 16) | sqHead;
    this.#held[at + 2] = (status << 17) | cid;
    this.#heldCount++;
    this.coalescing.held(this.#heldCount, nowNs);
  }

  /** Moves what is held into the ring, as far as there is room; answers how many entries. */
  post(batch: DmaBatch<CompletionQueue>, nowNs: number): number {
    const count = Math.min(this.#heldCount, this.size - 1 - this.unconsumed);
    if (count === 0) return 0;
    let start = this.#tail;
    for (let at = 0; at < count; at++) {
      const to = this.#tail * ENTRY_WORDS;
      this.#words[to] = this.#held[3 * at] as number;
      this.#words[to + 2] = this.#held[3 * at + 1] as number;
      this.#words[to + 3] = (this.#held[3 * at + 2] as number) | (this.#phase << 16);
      this.#tail++;
      const run = this.#tail - start;
      if (this.#tail === this.size || run === RUN_ENTRIES || at === count - 1) {
        const bytes = run === 1 ? this.#slot(start) : this.#view(start, run);
        batch.add(this, iovaPlus(this.#base, start * COMPLETION_ENTRY_BYTES), bytes);
        if (this.#tail === this.size) {
          this.#tail = 0;
          this.#phase ^= 1;
        }
        start = this.#tail;
      }
    }
    this.#held.copyWithin(0, 3 * count, 3 * this.#heldCount);
    this.#heldCount -= count;
    if (this.#posted <= Math.max(this.#signalled, this.#consumed)) this.#unsignalledSinceNs = nowNs;
    this.#posted += count;
    this.coalescing.posted(this.#heldCount, nowNs);
    return count;
  }

  /** Drops what is held of a submission queue that is gone. */
  drop(sqid: number): void {
    let kept = 0;
    for (let at = 0; at < this.#heldCount; at++) {
      if ((this.#held[3 * at + 1] as number) >>> 16 === sqid) continue;
      this.#held.copyWithin(3 * kept++, 3 * at, 3 * at + 3);
    }
    this.#submitted -= this.#heldCount - kept;
    this.#heldCount = kept;
  }

  /** The host's head. @returns false where it names no entry that was posted */
  consume(head: number): boolean {
    if (head >= this.size) return false;
    const ahead = head - this.#head;
    const count = ahead < 0 ? ahead + this.size : ahead;
    if (count > this.unconsumed) return false;
    this.#head = head;
    this.#consumed += count;
    return true;
  }

  /** Entries in the ring that no interrupt has been sent for, and the host has not found by itself. */
  get unsignalled(): boolean {
    return this.interrupts && this.#posted > Math.max(this.#signalled, this.#consumed);
  }

  /**
   * Whether an interrupt is due. Not while the host has still to consume entries of the one before:
   * its handler has yet to come past, takes these along, and another interrupt costs a guest more
   * than the command itself.
   *
   * Nothing is lost by that: a handler that had looked at the ring before these entries came moves the
   * head up to the signalled ones and no further, which makes the interrupt due; and a handler that
   * never ends does not hold it back longer than {@link UNSIGNALLED_NS_MAX}. Whoever goes to sleep
   * with {@link unsignalled} entries sends the interrupt first.
   */
  interruptDue(nowNs: number): boolean {
    if (!this.unsignalled) return false;
    return (
      this.#consumed >= this.#signalled || nowNs - this.#unsignalledSinceNs >= UNSIGNALLED_NS_MAX
    );
  }

  /** An interrupt is sent. @returns for how many entries */
  interrupted(): number {
    const entries = this.#posted - Math.max(this.#signalled, this.#consumed);
    this.#signalled = this.#posted;
    return entries;
  }

  #slot(at: number): Uint8Array {
    this.#slots[at] ??= this.#view(at, 1);
    return this.#slots[at];
  }

  #view(start: number, entries: number): Uint8Array {
    const from = start * COMPLETION_ENTRY_BYTES;
    return this.#ring.subarray(from, from + entries * COMPLETION_ENTRY_BYTES);
  }
}
