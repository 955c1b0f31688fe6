import { AioQueue } from '../ffi/aio.ts';
import { startWriteBack } from '../ffi/file-io.ts';
import {
  MADV_DONTDUMP,
  MADV_DONTFORK,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  madvise,
  mmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../ffi/libc.ts';
import { SystemError } from '../ffi/system-error.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import { GATE_ENTRIES, GateOutcome } from './dma-gate.ts';
import { MemoryError, type MemoryRun } from './guest-memory.ts';
import { CHUNK_BYTES, mayTryAgain, type SealedPort, WRITE_MS_MAX } from './sealed-port.ts';

/** Bytes that one go can carry. */
const ARENA_BYTES = 1024 * 1024;
const PAGE_BYTES = 4096;
/** Small requests share a page of the arena, each on cache lines of its own. */
const LINE_BYTES = 64;
/** Parts of runs in one go: more than entries, as neighbours go in one request. */
const PARTS_MAX = 512;
/** How often the requests of a go are sent together, as writes that met a refill are; then alone. */
const ROUNDS_MAX = 8;
/** How long the controller may take for a go; it answers or ends, unless somebody stopped it. */
const ANSWER_MS_MAX = 60_000;

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
  readonly #onFallback: (why: string) => void;
  readonly #newQueue: () => AioQueue;
  readonly #answerMsMax: number;
  #told = false;
  readonly counters: SealedBatchCounters = {
    goes: 0,
    scattered: 0,
    together: 0,
    alone: 0,
    fallbacks: 0,
  };
  #queue: AioQueue | undefined;
  #queueWanted = true;
  #arenaAt = 0;
  #arena: Buffer<ArrayBuffer> = Buffer.alloc(0);
  #arenaUsed = 0;

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
  constructor(
    port: SealedPort,
    scatter: () => number,
    {
      onFallback = () => {},
      answerMsMax = ANSWER_MS_MAX,
      newQueue = () => new AioQueue(GATE_ENTRIES),
    }: SealedBatchOptions = {},
  ) {
    this.#port = port;
    this.#scatter = scatter;
    this.#newQueue = newQueue;
    this.#onFallback = onFallback;
    this.#answerMsMax = answerMsMax;
  }

  /**
   * Adds `length` bytes of a run, from its byte `start` on: at `offset` of the RAM file, at most
   * {@link CHUNK_BYTES}. Does what was added before where the go has no room, or has the range already.
   */
  add(direction: Direction, run: MemoryRun, start: number, offset: number, length: number): void {
    if (this.#arenaAt === 0) this.#openArena();
    if (this.#parts === PARTS_MAX || this.#overlaps(offset, length)) this.finish(direction);
    let entry = this.#entries - 1;
    if (this.#goesOn(entry, run.slot, offset, length)) {
      this.#length[entry] = (this.#length[entry] ?? 0) + length;
    } else {
      if (this.#entries === GATE_ENTRIES || this.#placeFor(length) + length > ARENA_BYTES) {
        this.finish(direction);
      }
      entry = this.#entries++;
      this.#arenaUsed = this.#placeFor(length);
      this.#offset[entry] = offset;
      this.#length[entry] = length;
      this.#slot[entry] = run.slot;
      this.#place[entry] = this.#arenaUsed;
    }
    const place = this.#arenaUsed;
    this.#arenaUsed += length;
    if (direction === 'write') {
      Buffer.prototype.copy.call(run.bytes, this.#arena, place, start, start + length);
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
      const deadline = performance.now() + WRITE_MS_MAX;
      if (direction === 'write') pending = this.#scattered(pending);
      // A lone request is cheaper by itself.
      for (let round = 0; pending > 1 && round < ROUNDS_MAX; round++) {
        const left = this.#together(direction, pending);
        if (left === undefined) {
          this.counters.fallbacks++;
          break;
        }
        pending = left;
      }
      for (let i = 0; i < pending; i++) this.#alone(direction, this.#pending[i] ?? 0, deadline);
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
    this.#arenaUsed = 0;
  }

  /** Nothing may be under way. */
  close(): void {
    this.#queueWanted = false;
    // What was given up may still be under way: it ends with the process.
    if (!this.#port.givenUp) this.#queue?.close();
    this.#queue = undefined;
  }

  /** Whether the last entry can take these bytes too: they are next to it in the file and the arena. */
  #goesOn(entry: number, slot: KeySlot, offset: number, length: number): boolean {
    if (entry < 0 || this.#slot[entry] !== slot) return false;
    const before = this.#length[entry] ?? 0;
    return (
      (this.#offset[entry] ?? 0) + before === offset &&
      before + length <= CHUNK_BYTES &&
      this.#arenaUsed + length <= ARENA_BYTES
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

  /** Where the next request's bytes go: no more pages than they need. */
  #placeFor(length: number): number {
    const used = this.#arenaUsed;
    const line = used + ((LINE_BYTES - (used % LINE_BYTES)) % LINE_BYTES);
    const inPage = line % PAGE_BYTES;
    return inPage === 0 || inPage + length <= PAGE_BYTES ? line : line - inPage + PAGE_BYTES;
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
    // A lone request is cheaper by itself, and there it drops nothing either.
    if (count === 0 || pending === 1) return pending;
    const queue = this.#openQueue();
    const fd = this.#scatterFd();
    if (queue === undefined || fd === undefined) return pending;
    queue.prepare(0, 'write', fd, 0, this.#arenaAt, end);
    gate.open(count);
    const sent = this.#send(queue, 1);
    const unanswered = sent === 0 ? undefined : this.#unanswered(queue, sent);
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
    const queue = this.#openQueue();
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
      queue.prepare(i, direction, fd, offset, this.#arenaAt + (this.#place[entry] ?? 0), length);
    }
    gate.open(pending);
    const sent = this.#send(queue, pending);
    this.counters.together += sent;
    if (sent === 0) {
      gate.open(0);
      return undefined;
    }
    const unanswered = this.#unanswered(queue, sent);
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

  /** @returns how many were sent: fewer than `count` where the kernel takes no more. */
  #send(queue: AioQueue, count: number): number {
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
  #unanswered(queue: AioQueue, sent: number): string | undefined {
    try {
      if (queue.wait(sent, this.#answerMsMax) === sent) return undefined;
      return `no answer within ${this.#answerMsMax} ms`;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      return error.message;
    }
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

  #alone(direction: Direction, entry: number, deadline: number): void {
    this.counters.alone++;
    const place = this.#place[entry] ?? 0;
    const bytes = this.#arena.subarray(place, place + (this.#length[entry] ?? 0));
    const slot = (this.#slot[entry] ?? 0) as KeySlot;
    const offset = this.#offset[entry] ?? 0;
    try {
      if (direction === 'read') this.#port.read(offset, slot, bytes);
      else this.#port.write(offset, slot, bytes, deadline);
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
        this.#arena.copy(run.bytes, this.#partStart[part] ?? 0, place, place + length);
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

  #openQueue(): AioQueue | undefined {
    if (this.#queue !== undefined || !this.#queueWanted) return this.#queue;
    try {
      this.#queue = this.#newQueue();
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#queueWanted = false;
      this.#tell(error);
    }
    return this.#queue;
  }

  #tell(error: SystemError): void {
    if (this.#told) return;
    this.#told = true;
    this.#onFallback(
      `expected the kernel to take DMA in batches, got ${error.message}: each access goes alone, ` +
        'which is slower (EAGAIN: raise fs.aio-max-nr)',
    );
  }

  #openArena(): void {
    const at = mmap(0, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    // A child would get copies of the pages that the kernel is writing to; a dump guest memory.
    madvise(at, ARENA_BYTES, MADV_DONTFORK);
    madvise(at, ARENA_BYTES, MADV_DONTDUMP);
    this.#arena = Buffer.from(viewOfAddress(at, ARENA_BYTES).buffer);
    this.#arenaAt = at;
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

export interface SealedBatchOptions {
  /** Told once, where the kernel cannot take batches. */
  readonly onFallback?: (why: string) => void;
  /** How long the controller may take for a go. */
  readonly answerMsMax?: number;
  readonly newQueue?: () => AioQueue;
}
