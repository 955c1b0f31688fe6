/**
 * Linux native AIO: io_setup(2), io_submit(2), io_getevents(2), for many positioned reads and writes
 * that are sent in one call and waited for in one. libc has no names for them, so they go by number.
 * Layouts are those of include/uapi/linux/aio_abi.h on a little-endian machine.
 */
import koffi from 'koffi';
import {
  checked,
  declared,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  munmap,
  type Native,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from './libc.ts';
import { SystemError } from './system-error.ts';

interface Numbers {
  readonly setup: number;
  readonly destroy: number;
  readonly getEvents: number;
  readonly submit: number;
}

const NUMBERS: Readonly<Record<string, Numbers>> = {
  x64: { setup: 206, destroy: 207, getEvents: 208, submit: 209 },
  arm64: { setup: 0, destroy: 1, getEvents: 4, submit: 2 },
};

const syscallNative = declared(
  'long syscall(long number, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e)',
);
let syscall: Native | undefined;

/** struct iocb, and where its fields stand in 32-bit words. */
const IOCB_BYTES = 64;
const DATA = 0;
/** aio_lio_opcode, and aio_reqprio above it. */
const OPCODE = 4;
const DESCRIPTOR = 5;
const BUFFER = 6;
const LENGTH = 8;
const OFFSET = 10;
const PREAD = 0;
const PWRITE = 1;
/** struct io_event: data, obj, res, res2. */
const EVENT_BYTES = 32;
const TIMESPEC_BYTES = 16;
const EINTR = koffi.os.errno.EINTR;

/**
 * A context for at most `entries` requests at a time, and their control blocks. A block is filled
 * in by {@link prepare}, the first so many are sent by {@link submit}, and all that were sent are
 * awaited by {@link wait}.
 */
export class AioQueue {
  readonly entries: number;
  readonly #context: number;
  readonly #mapping: { readonly at: number; readonly bytes: number };
  readonly #pointersAt: number;
  readonly #eventsAt: number;
  readonly #timeAt: number;
  readonly #blocks: Uint32Array;
  readonly #events: Int32Array;
  readonly #time: Uint32Array;
  readonly #results: Int32Array;
  #closed = false;

  /** @throws SystemError: ENOSYS (a kernel without it), EAGAIN (fs.aio-max-nr is reached) */
  constructor(entries: number) {
    if (!Number.isInteger(entries) || entries < 1 || entries > 1024) {
      throw new RangeError(`expected a queue of 1 to 1024 entries, got ${entries}`);
    }
    this.entries = entries;
    const pointersFrom = entries * IOCB_BYTES;
    const eventsFrom = pointersFrom + entries * 8;
    const timeFrom = eventsFrom + entries * EVENT_BYTES;
    const bytes = timeFrom + TIMESPEC_BYTES + 8;
    const at = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    this.#mapping = { at, bytes };
    this.#pointersAt = at + pointersFrom;
    this.#eventsAt = at + eventsFrom;
    this.#timeAt = at + timeFrom;
    const { buffer, byteOffset } = viewOfAddress(at, bytes);
    this.#blocks = new Uint32Array(buffer, byteOffset, pointersFrom / 4);
    this.#events = new Int32Array(buffer, byteOffset + eventsFrom, (entries * EVENT_BYTES) / 4);
    this.#time = new Uint32Array(buffer, byteOffset + timeFrom, TIMESPEC_BYTES / 4);
    this.#results = new Int32Array(entries);
    const pointers = new BigUint64Array(buffer, byteOffset + pointersFrom, entries);
    for (let i = 0; i < entries; i++) pointers[i] = BigInt(at + i * IOCB_BYTES);
    // io_setup wants a zero where it puts the context.
    const contextAt = timeFrom + TIMESPEC_BYTES;
    try {
      syscall ??= syscallNative();
      checked('io_setup', syscall(numbers().setup, entries, at + contextAt, 0, 0, 0));
    } catch (error) {
      munmap(at, bytes);
      throw error;
    }
    this.#context = Number(new BigUint64Array(buffer, byteOffset + contextAt, 1)[0]);
  }

  /** Fills in a control block: `length` bytes at the native address `buffer`, at `offset` of `fd`. */
  prepare(
    index: number,
    operation: 'read' | 'write',
    fd: number,
    offset: number,
    buffer: number,
    length: number,
  ): void {
    const words = this.#blocks;
    const at = index * (IOCB_BYTES / 4);
    words[at + DATA] = index;
    words[at + OPCODE] = operation === 'read' ? PREAD : PWRITE;
    words[at + DESCRIPTOR] = fd;
    words[at + BUFFER] = buffer;
    words[at + BUFFER + 1] = buffer / 2 ** 32;
    words[at + LENGTH] = length;
    words[at + OFFSET] = offset;
    words[at + OFFSET + 1] = offset / 2 ** 32;
  }

  /**
   * Sends the blocks from `first` up to `end`.
   * @returns how many of them were sent: fewer where the kernel took no more. @throws SystemError
   * where it took none
   */
  submit(first: number, end: number): number {
    this.#checkCount(end);
    syscall ??= syscallNative();
    const pointers = this.#pointersAt + first * 8;
    const sent = syscall(numbers().submit, this.#context, end - first, pointers, 0, 0);
    return checked('io_submit', sent, `${end - first} requests`);
  }

  /**
   * Waits for `count` of those that were sent, and keeps their results.
   * @returns how many of them ended before `milliseconds` were over
   */
  wait(count: number, milliseconds: number): number {
    this.#checkCount(count);
    syscall ??= syscallNative();
    const time = this.#time;
    const deadline = performance.now() + milliseconds;
    let ended = 0;
    // Each turn takes an event or more, or time: interruptions alone end at the deadline.
    for (let left = milliseconds; ended < count && left > 0; left = deadline - performance.now()) {
      time[0] = left / 1000;
      time[2] = (left % 1000) * 1e6;
      const wanted = count - ended;
      const got = syscall(
        numbers().getEvents,
        this.#context,
        wanted,
        wanted,
        this.#eventsAt,
        this.#timeAt,
      );
      if (got < 0) {
        if (koffi.errno() === EINTR) continue;
        throw new SystemError('io_getevents', koffi.errno());
      }
      for (let i = 0; i < got; i++) {
        const at = i * (EVENT_BYTES / 4);
        this.#results[this.#events[at] ?? 0] = this.#events[at + 4] ?? 0;
      }
      ended += got;
    }
    return ended;
  }

  /** What became of a block that was waited for: bytes, or minus an errno. */
  result(index: number): number {
    return this.#results[index] ?? 0;
  }

  #checkCount(count: number): void {
    if (count > this.entries) {
      throw new RangeError(`expected at most ${this.entries} requests, got ${count}`);
    }
  }

  /** Waits for what is under way, and frees the context. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    syscall ??= syscallNative();
    checked('io_destroy', syscall(numbers().destroy, this.#context, 0, 0, 0, 0));
    munmap(this.#mapping.at, this.#mapping.bytes);
  }
}

const known = NUMBERS[process.arch];

function numbers(): Numbers {
  if (known === undefined) {
    throw new SystemError('io_setup', koffi.os.errno.ENOSYS ?? 38, `on ${process.arch}`);
  }
  return known;
}
