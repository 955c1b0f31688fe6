import type { Iova } from '../../../pci/index.ts';
import type { DmaBatch } from '../dma-batch.ts';
import { iovaPlus } from '../iova.ts';
import type { CompletionQueue } from './completion-queue.ts';

export const SUBMISSION_ENTRY_BYTES = 64;
/** Entries of one queue that a round takes: bounded, so that no queue starves the others (§4.13). */
export const BURST_ENTRIES = 64;
/** Commands of one queue under way: bounds those of the admin queue that take their time. */
const IN_FLIGHT_MAX = 1024;

/** A submission queue (NVMe 1.4 §4.1): physically contiguous, a ring that the host fills. */
export class SubmissionQueue {
  readonly id: number;
  /** Entries, from 2. */
  readonly size: number;
  readonly completions: CompletionQueue;
  /** The next entry to take. */
  head = 0;
  /** One past the last that the host has announced. */
  tail = 0;
  /** Commands taken whose completion has not been handed to the completion queue. */
  inFlight = 0;
  /** Its memory did not answer: nothing more is taken from it. */
  dead = false;
  /** A shadow doorbell's value that was refused: told of once. */
  refusedTail = -1;
  /** Set while Delete I/O Submission Queue waits for what is in flight. */
  onDrained: (() => void) | undefined;
  readonly #base: Iova;
  readonly #entries = new Uint8Array(BURST_ENTRIES * SUBMISSION_ENTRY_BYTES);
  readonly #words = new Uint32Array(this.#entries.buffer);
  /** Views of the first n entries: no view is made while the queue runs. */
  readonly #first: Uint8Array[] = [];

  constructor(id: number, size: number, base: Iova, completions: CompletionQueue) {
    this.id = id;
    this.size = size;
    this.#base = base;
    this.completions = completions;
    for (let n = 0; n <= BURST_ENTRIES; n++) {
      this.#first.push(this.#entries.subarray(0, n * SUBMISSION_ENTRY_BYTES));
    }
  }

  /**
   * Entries that wait and may be taken: none while the completion queue has a whole ring of
   * completions for which a host that does not consume leaves no room.
   */
  get waiting(): number {
    if (this.dead || this.onDrained !== undefined || this.inFlight >= IN_FLIGHT_MAX) return 0;
    const { completions } = this;
    if (completions.dead || completions.held >= completions.size) return 0;
    const ahead = this.tail - this.head;
    return ahead < 0 ? ahead + this.size : ahead;
  }

  /** Adds the reading of the next `count` entries, at most {@link BURST_ENTRIES}: two at the wrap. */
  addTo(batch: DmaBatch<SubmissionQueue>, count: number): void {
    const run = Math.min(count, this.size - this.head);
    const iova = iovaPlus(this.#base, this.head * SUBMISSION_ENTRY_BYTES);
    batch.add(this, iova, this.#first[run] as Uint8Array);
    if (run === count) return;
    const bytes = SUBMISSION_ENTRY_BYTES;
    batch.add(this, this.#base, this.#entries.subarray(run * bytes, count * bytes));
  }

  /** Copies the entry `at` of those that were read; the slot is the host's again. */
  take(at: number, into: Uint32Array): void {
    const from = at * 16;
    for (let word = 0; word < 16; word++) into[word] = this.#words[from + word] as number;
    this.head = this.head + 1 === this.size ? 0 : this.head + 1;
    this.inFlight++;
  }

  /** The completion of a command has been handed over. */
  landed(): void {
    this.inFlight--;
    if (this.inFlight === 0) this.onDrained?.();
  }
}
