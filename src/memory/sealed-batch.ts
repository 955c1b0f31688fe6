import { startWriteBack } from '../ffi/file-io.ts';
import { SystemError } from '../ffi/system-error.ts';
import type { AccessSlot } from '../keys/key-slot.ts';
import { BatchQueue, type BatchQueueOptions } from './batch-queue.ts';
import { DmaArena } from './dma-arena.ts';
import { GATE_ENTRIES, GateOutcome } from './dma-gate.ts';
import { MemoryError, type MemoryRun } from './guest-memory.ts';
import { CHUNK_BYTES, mayTryAgain, type SealedPort, WRITE_MS_MAX } from './sealed-port.ts';

/** Parts of runs in one go: more than entries, as neighbours go in one request. */
const PARTS_MAX = 512;
/** How often the requests of a go are sent together, as writes that met a refill are; then alone. */
const ROUNDS_MAX = 8;

type Direction = 'read' | 'write';

/**
 * Many accesses to one RAM file at once: the requests of a *go* are sent with one io_submit(2) and
 * waited for with one io_getevents(2), so that the device's process and the controller wake each
 * other once a go rather than once a request. It is over before it returns, as a single access is.
 *
 * The bytes go through an arena of the go's own. A go that is given up (a controller that somebody
 * stopped) leaves its requests to the kernel, and what they still do must meet nobody's array.
 *
 * Writes to pages that are out of the cache need not even that: their bytes go in one message, and
 * the rest of the go follows (dma-gate.ts).
 *
 * Where the kernel has no AIO to give, all goes one by one; that is told once.
 */
export class SealedBatch {
  readonly #port: SealedPort;
  readonly #scatter: () => number;
  readonly #queue: BatchQueue;
  readonly counters: SealedBatchCounters = {
    goes: 0,
    scattered: 0,
    together: 0,
    alone: 0,
    fallbacks: 0,
  };
  #arena: DmaArena | undefined;
  #deadline = 0;

  /** The requests of the go. */
  #entries = 0;
  readonly #offset = new Float64Array(GATE_ENTRIES);
  readonly #length = new Uint32Array(GATE_ENTRIES);
  readonly #slot = new Uint32Array(GATE_ENTRIES);
  readonly #place = new Uint32Array(GATE_ENTRIES);
  readonly #failure: (MemoryError | undefined)[] = new Array(GATE_ENTRIES).fill(undefined);
  /** Those that are still to be done. */
  readonly #pending = new Uint8Array(GATE_ENTRIES);
  /** Those of one message. */
  readonly #asked = new Uint8Array(GATE_ENTRIES);
  /** Those that are not for it. */
  readonly #others = new Uint8Array(GATE_ENTRIES);
  readonly #range = { offset: 0, length: 0, place: 0 };

  /** What of which run is in which request. */
  #parts = 0;
  readonly #partRun: (MemoryRun | undefined)[] = new Array(PARTS_MAX).fill(undefined);
  readonly #partStart = new Uint32Array(PARTS_MAX);
  readonly #partLength = new Uint32Array(PARTS_MAX);
  readonly #partPlace = new Uint32Array(PARTS_MAX);
  readonly #partEntry = new Uint8Array(PARTS_MAX);

  /** @param scatter the RAM file's scatter file; throws MemoryError once it is closed. */
  constructor(port: SealedPort, scatter: () => number, options: BatchQueueOptions = {}) {
    this.#port = port;
    this.#scatter = scatter;
    this.#queue = new BatchQueue(options);
  }

  /** A batch begins: its writes may take {@link WRITE_MS_MAX} in all, however many goes it is. */
  begin(): void {
    this.#deadline = performance.now() + WRITE_MS_MAX;
  }

  /**
   * Adds `length` bytes of a run, from its byte `start` on: at `offset` of the RAM file, at most
   * {@link CHUNK_BYTES}. Does what was added before where the go has no room, or has the range already.
   */
  add(direction: Direction, run: MemoryRun, start: number, offset: number, length: number): void {
    const arena = this.#memory;
    if (this.#parts === PARTS_MAX || this.#overlaps(offset, length)) this.finish(direction);
    let entry = this.#entries - 1;
    let place: number;
    if (this.#goesOn(entry, run.slot, offset, length)) {
      this.#length[entry] = (this.#length[entry] ?? 0) + length;
      place = arena.extend(length);
    } else {
      if (this.#entries === GATE_ENTRIES || !arena.hasRoomFor(length)) this.finish(direction);
      entry = this.#entries++;
      place = arena.take(length);
      this.#offset[entry] = offset;
      this.#length[entry] = length;
      this.#slot[entry] = run.slot;
      this.#place[entry] = place;
    }
    if (direction === 'write') {
      Buffer.prototype.copy.call(run.bytes, arena.bytes, place, start, start + length);
    }
    const part = this.#parts++;
    this.#partRun[part] = run;
    this.#partStart[part] = start;
    this.#partLength[part] = length;
    this.#partPlace[part] = place;
    this.#partEntry[part] = entry;
  }

  /** Does all that was added, and says at each run what failed. */
  finish(direction: Direction): void {
    const entries = this.#entries;
    if (entries === 0) return;
    this.#failure.fill(undefined, 0, entries);
    for (let entry = 0; entry < entries; entry++) this.#pending[entry] = entry;
    try {
      let pending = entries;
      this.counters.goes++;
      // A lone request is cheaper by itself.
      if (direction === 'write' && pending > 1) pending = this.#scattered(pending);
      for (let round = 0; pending > 1 && round < ROUNDS_MAX; round++) {
        const left = this.#together(direction, pending);
        if (left === undefined) {
          this.counters.fallbacks++;
          break;
        }
        pending = left;
      }
      for (let i = 0; i < pending; i++) this.#alone(direction, this.#pending[i] ?? 0);
      this.#handBack(direction);
    } finally {
      this.discard();
    }
  }

  /** Forgets what was added and is not done. */
  discard(): void {
    this.#partRun.fill(undefined, 0, this.#parts);
    this.#parts = 0;
    this.#entries = 0;
    this.#arena?.clear();
  }

  /** Nothing may be under way. */
  close(): void {
    this.#queue.close(!this.#port.givenUp);
  }

  get #memory(): DmaArena {
    this.#arena ??= new DmaArena();
    return this.#arena;
  }

  /** Whether the last entry can take these bytes too: they are next to it in the file and the arena. */
  #goesOn(entry: number, slot: AccessSlot, offset: number, length: number): boolean {
    if (entry < 0 || this.#slot[entry] !== slot) return false;
    const before = this.#length[entry] ?? 0;
    return (
      (this.#offset[entry] ?? 0) + before === offset &&
      before + length <= CHUNK_BYTES &&
      this.#memory.canExtend(length)
    );
  }

  /** The controller tells requests by their ranges: no two that overlap may be under way. */
  #overlaps(offset: number, length: number): boolean {
    for (let entry = 0; entry < this.#entries; entry++) {
      const other = this.#offset[entry] ?? 0;
      if (offset < other + (this.#length[entry] ?? 0) && other < offset + length) return true;
    }
    return false;
  }

  /**
   * Writes to pages that are out of the cache, in one message.
   * @returns how many of the first `pending` are left to be done
   */
  #scattered(pending: number): number {
    const { gate, dropped } = this.#port;
    const asked = this.#asked;
    const others = this.#others;
    let count = 0;
    let left = 0;
    let end = 0;
    for (let i = 0; i < pending; i++) {
      const entry = this.#pending[i] ?? 0;
      const range = this.#range;
      range.offset = this.#offset[entry] ?? 0;
      range.length = this.#length[entry] ?? 0;
      range.place = this.#place[entry] ?? 0;
      const expected = dropped.expected(range.offset, range.length);
      if (expected === undefined) {
        others[left++] = entry;
        continue;
      }
      gate.askDropped(count, this.#slot[entry] ?? 0, range, expected);
      asked[count++] = entry;
      end = Math.max(end, range.place + range.length);
    }
    if (count === 0) return pending;
    const queue = this.#queue.opened();
    const fd = this.#scatterFd();
    if (queue === undefined || fd === undefined) return pending;
    queue.prepare(0, 'write', fd, 0, this.#memory.address, end);
    gate.open(count);
    const sent = this.#queue.send(queue, 1);
    const unanswered = sent === 0 ? undefined : this.#queue.unanswered(queue, sent);
    gate.open(0);
    if (sent === 0) return pending;
    if (unanswered !== undefined) {
      this.#lost(unanswered);
      return 0;
    }
    const result = queue.result(0);
    const error = result < 0 ? new SystemError('write', -result) : undefined;
    this.counters.scattered += count;
    for (let i = 0; i < count; i++) {
      const entry = asked[i] ?? 0;
      const outcome = gate.outcome(i);
      if (outcome === GateOutcome.done) continue;
      if (outcome === GateOutcome.refilled) others[left++] = entry;
      else this.#failure[entry] = this.#port.failure(i, error);
    }
    this.#pending.set(others.subarray(0, left));
    return left;
  }

  /**
   * Sends the first `pending` of what is to be done at once, and waits for it.
   * @returns how many are left to be done, or undefined where they cannot be sent together.
   */
  #together(direction: Direction, pending: number): number | undefined {
    const queue = this.#queue.opened();
    if (queue === undefined) return undefined;
    const { gate, dropped } = this.#port;
    const fd = this.#fd();
    if (fd === undefined) return 0;
    for (let i = 0; i < pending; i++) {
      const entry = this.#pending[i] ?? 0;
      const offset = this.#offset[entry] ?? 0;
      const length = this.#length[entry] ?? 0;
      // Else each request's own write-back would be waited for before the next request is sent.
      startWriteBack(fd, offset, length);
      if (direction === 'write') dropped.forget(offset, length);
      gate.ask(i, this.#slot[entry] ?? 0, offset, length);
      queue.prepare(
        i,
        direction,
        fd,
        offset,
        this.#memory.address + (this.#place[entry] ?? 0),
        length,
      );
    }
    gate.open(pending);
    const sent = this.#queue.send(queue, pending);
    this.counters.together += sent;
    if (sent === 0) {
      gate.open(0);
      return undefined;
    }
    const unanswered = this.#queue.unanswered(queue, sent);
    gate.open(0);
    if (unanswered !== undefined) {
      this.#lost(unanswered);
      return 0;
    }
    let left = 0;
    for (let i = 0; i < pending; i++) {
      const entry = this.#pending[i] ?? 0;
      if (i < sent && this.#settled(direction, i, entry, queue.result(i))) continue;
      this.#pending[left++] = entry;
    }
    return left;
  }

  /** Something is under way that nobody waits for any more. */
  #lost(why: string): void {
    this.#port.giveUp(`expected the memory controller to answer, got ${why}`);
    this.#fd();
  }

  /** Whether an entry that was entry `index` of the gate is over: done, or failed for good. */
  #settled(direction: Direction, index: number, entry: number, result: number): boolean {
    const length = this.#length[entry] ?? 0;
    const { gate, dropped } = this.#port;
    const outcome = gate.outcome(index);
    if (result === length && outcome === GateOutcome.done) {
      if (direction === 'write') {
        dropped.note(this.#offset[entry] ?? 0, length, gate.expected(index));
      }
      return true;
    }
    if (direction === 'write' && mayTryAgain(result, length, outcome)) return false;
    const error = result < 0 ? new SystemError(direction, -result) : undefined;
    this.#failure[entry] = this.#port.failure(index, error);
    return true;
  }

  #alone(direction: Direction, entry: number): void {
    this.counters.alone++;
    const place = this.#place[entry] ?? 0;
    const bytes = this.#memory.bytes.subarray(place, place + (this.#length[entry] ?? 0));
    const slot = (this.#slot[entry] ?? 0) as AccessSlot;
    const offset = this.#offset[entry] ?? 0;
    try {
      if (direction === 'read') this.#port.read(offset, slot, bytes);
      else this.#port.write(offset, slot, bytes, this.#deadline);
    } catch (error) {
      if (!(error instanceof MemoryError)) throw error;
      this.#failure[entry] = error;
    }
  }

  #handBack(direction: Direction): void {
    for (let part = 0; part < this.#parts; part++) {
      const run = this.#partRun[part] as MemoryRun;
      const failure = this.#failure[this.#partEntry[part] ?? 0];
      if (failure !== undefined) {
        run.failure = failure;
      } else if (direction === 'read') {
        const place = this.#partPlace[part] ?? 0;
        const length = this.#partLength[part] ?? 0;
        this.#memory.bytes.copy(run.bytes, this.#partStart[part] ?? 0, place, place + length);
      }
    }
  }

  /** The descriptor; where there is none any more, all that is to be done has failed. */
  #fd(): number | undefined {
    try {
      return this.#port.fd;
    } catch (error) {
      if (!(error instanceof MemoryError)) throw error;
      this.#failure.fill(error, 0, this.#entries);
      return undefined;
    }
  }

  #scatterFd(): number | undefined {
    return this.#fd() === undefined ? undefined : this.#scatter();
  }
}

/** What the device's process did in batches. */
export interface SealedBatchCounters {
  goes: number;
  /** Writes that went in one message, as their pages were out of the cache. */
  scattered: number;
  /** Requests that were sent together with others of their go; a retry is one more. */
  together: number;
  /** Requests that were sent alone: the only one of a go, the last after refills, or no queue. */
  alone: number;
  /** Goes that the kernel would not take together. */
  fallbacks: number;
}
