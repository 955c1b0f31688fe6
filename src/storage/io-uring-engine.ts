/**
 * The engine on io_uring: one system call starts a batch, and an eventfd on Node's event loop tells of
 * ends.
 *
 * **Nothing here waits on the event loop.** Every entry has IOSQE_ASYNC: a thread of the kernel takes
 * it from the first step. Without that flag the kernel tries the entry inside io_uring_enter first.
 * For fsync and fallocate it never does (io_uring/sync.c), for buffered writes only on the few file
 * systems with FOP_BUFFER_WASYNC (io_uring/rw.c), and for tmpfs never (no FMODE_NOWAIT), but a
 * buffered read of ext4 that is not cached starts its read-ahead there: usually 6 µs, measured up to
 * 0.4 ms, and as long as the disk takes where the file's extent tree must be read first. What is in
 * memory does not come here at all: see resident-io.ts.
 *
 * **A ring for each storage**, not one for the process: so one disk that hangs cannot use up another's
 * places, closing one is closing its descriptor, and a batch belongs to one disk anyway. The kernel's
 * threads are shared by all rings of the process; WORKERS_MAX bounds them.
 *
 * **No wake-up is lost**: the eventfd counts, its watch is level-triggered, and it is emptied before the
 * completions are taken. With IOSQE_ASYNC no completion comes from inside io_uring_enter, so there is
 * none whose wake-up would be needless.
 */
import {
  IORING_FSYNC_DATASYNC,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_READ,
  IORING_OP_WRITE,
  IOSQE_ASYNC,
} from '../ffi/io-uring.ts';
import { close, eventfd, read } from '../ffi/libc.ts';
import { RWF_DSYNC } from '../ffi/page-cache.ts';
import { type ReadableWatch, watchReadable } from '../ffi/poll.ts';
import {
  type EngineListener,
  type EngineOperation,
  OPERATIONS_MAX,
  type StorageEngine,
} from './storage-engine.ts';
import { SubmissionRing } from './submission-ring.ts';

/** Threads of the kernel: reads from a slow disk that can be under way at once in this process. */
const WORKERS_MAX = 64;
/** EINTR, EAGAIN, ENOMEM and EBUSY: the kernel has no room now. Asked again, for ten seconds. */
const PASSING = new Set([-4, -11, -12, -16]);
const ROUNDS_MAX = 8;
const ENTER_RETRY_MS = 2;
const ENTER_TRIES_MAX = 5000;

export class IoUringEngine implements StorageEngine {
  readonly name = 'io_uring';
  readonly #fd: number;
  readonly #listener: EngineListener;
  readonly #eventDescriptor: number;
  readonly #ring: SubmissionRing;
  readonly #watch: ReadableWatch;
  readonly #operations: (EngineOperation | undefined)[] = new Array(OPERATIONS_MAX);
  readonly #count = new Uint8Array(new ArrayBuffer(128)).subarray(0, 8);
  readonly #completed = (userData: number, result: number) => this.#end(userData, result);
  readonly #entry = { offset: 0, address: 0, length: 0, flags: 0 };
  #underWay = 0;
  #retry: NodeJS.Timeout | undefined;
  #enterTries = 0;

  /** @throws SystemError where there is no io_uring to be had */
  constructor(fd: number, listener: EngineListener) {
    this.#fd = fd;
    this.#listener = listener;
    this.#eventDescriptor = eventfd();
    try {
      this.#ring = new SubmissionRing(OPERATIONS_MAX, this.#eventDescriptor, WORKERS_MAX);
    } catch (error) {
      close(this.#eventDescriptor);
      throw error;
    }
    this.#watch = watchReadable(this.#eventDescriptor, () => this.#onEvents());
    this.#watch.unref();
  }

  start(operation: EngineOperation): void {
    this.#operations[operation.index] = operation;
    // Only what is under way keeps the process alive.
    if (this.#underWay++ === 0) this.#watch.ref();
    const entry = this.#entry;
    entry.offset = operation.offset;
    entry.address = operation.address;
    entry.length = operation.length;
    entry.flags = 0;
    let code = IORING_OP_READ;
    switch (operation.call) {
      case 'read':
        break;
      case 'write':
        code = IORING_OP_WRITE;
        break;
      case 'durable-write':
        code = IORING_OP_WRITE;
        entry.flags = RWF_DSYNC;
        break;
      case 'datasync':
        code = IORING_OP_FSYNC;
        entry.offset = entry.address = entry.length = 0; // the whole file
        entry.flags = IORING_FSYNC_DATASYNC;
        break;
      case 'fallocate':
        code = IORING_OP_FALLOCATE;
        entry.address = operation.length;
        entry.length = operation.mode;
        break;
    }
    this.#ring.put(code, IOSQE_ASYNC, this.#fd, entry, operation.index);
  }

  submit(): void {
    for (let round = 0; round < ROUNDS_MAX; round++) {
      if (this.#ring.unsubmitted > 0 && !this.#enter()) break;
      // An end may start another call, which is to go in now.
      this.#ring.reap(this.#completed);
      if (this.#ring.unsubmitted === 0) return;
    }
    this.#submitLater();
  }

  /** @returns whether the kernel can be asked on */
  #enter(): boolean {
    const result = this.#ring.enter();
    if (result === 0) {
      this.#enterTries = 0;
    } else if (PASSING.has(result) && this.#enterTries < ENTER_TRIES_MAX) {
      this.#enterTries++;
      this.#ring.reap(this.#completed);
      return false;
    } else {
      this.#enterTries = 0;
      const refused: number[] = [];
      while (this.#ring.unsubmitted > 0) refused.push(this.#ring.takeBack());
      // Only then: an end may start others.
      for (const index of refused) this.#end(index, result);
    }
    return true;
  }

  #submitLater(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      try {
        this.submit();
      } finally {
        this.#listener.settled();
      }
    }, ENTER_RETRY_MS);
  }

  #onEvents(): void {
    read(this.#eventDescriptor, this.#count);
    try {
      this.#ring.reap(this.#completed);
    } finally {
      this.#listener.settled();
    }
  }

  #end(index: number, result: number): void {
    const operation = this.#operations[index];
    if (operation === undefined) return;
    this.#operations[index] = undefined;
    if (--this.#underWay === 0) this.#watch.unref();
    this.#listener.ended(operation, result);
  }

  close(): void {
    clearTimeout(this.#retry);
    this.#watch.close();
    this.#ring.close();
    close(this.#eventDescriptor);
  }
}
