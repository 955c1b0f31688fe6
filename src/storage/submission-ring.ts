/**
 * One io_uring: its memory, and the rules by which the kernel and we share it.
 *
 * Ordering. Without SQPOLL the kernel reads the submission ring only inside io_uring_enter, which this
 * same thread calls: entries and tail are stored before the call in program order, and neither the CPU
 * nor the compiler moves a store past it (a call into native code that may read any memory). The
 * completion ring is written by other CPUs: an entry first, then the tail with release; we load the
 * tail with Atomics.load, so no load of an entry comes before it, and give entries back by
 * Atomics.store of the head, so no load of one comes after it. (Atomics on memory that is not a
 * SharedArrayBuffer are the same machine instructions; and x86-64 keeps loads in order anyway.)
 */
import {
  CQE_BYTES,
  IORING_FEAT_SINGLE_MMAP,
  IORING_OFF_SQ_RING,
  IORING_OFF_SQES,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_READ,
  IORING_OP_WRITE,
  IORING_REGISTER_EVENTFD,
  IORING_REGISTER_IOWQ_MAX_WORKERS,
  IORING_REGISTER_PROBE,
  ioUringEnter,
  ioUringRegister,
  ioUringSetup,
  PARAMS_BYTES,
  SQE_BYTES,
} from '../ffi/io-uring.ts';
import {
  close,
  MADV_DONTFORK,
  MAP_POPULATE,
  MAP_SHARED,
  madvise,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
  SystemError,
  viewOfAddress,
} from '../ffi/libc.ts';

const ENOSYS = 38;
const SQE_WORDS = SQE_BYTES / 4;
const HIGH = 0x1_0000_0000;
const OPERATIONS = [IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_READ, IORING_OP_WRITE];
/** Of struct io_uring_probe: operations from byte 16, 8 bytes each, flags at 2; IO_URING_OP_SUPPORTED. */
const PROBED_OPERATIONS = 64;
const OP_SUPPORTED = 1;

export class SubmissionRing {
  readonly #fd: number;
  readonly #mappings: { readonly address: number; readonly length: number }[] = [];
  #words = new Uint32Array(0);
  #entries = new Uint32Array(0);
  #submissionTail = 0;
  #submissionMask = 0;
  #submissionTailWord = 0;
  #completionHead = 0;
  #completionMask = 0;
  #completionHeadWord = 0;
  #completionTailWord = 0;
  #completionWord = 0;
  #waiting = 0;

  /**
   * @param entries a power of two: the most that may be under way, so that the completion ring, which
   * has twice as many, never overflows
   * @param eventDescriptor an eventfd, signalled with each completion
   * @param workers threads of the kernel that may wait for files at once
   * @throws SystemError where there is no io_uring, or none with these operations (Linux 5.6)
   */
  constructor(entries: number, eventDescriptor: number, workers: number) {
    const parameters = new Uint8Array(new ArrayBuffer(128)).subarray(0, PARAMS_BYTES);
    this.#fd = ioUringSetup(entries, parameters);
    try {
      this.#map(new DataView(parameters.buffer));
      this.#checkOperations();
      const argument = new Int32Array(32);
      const bytes = new Uint8Array(argument.buffer);
      argument[0] = eventDescriptor;
      ioUringRegister(this.#fd, IORING_REGISTER_EVENTFD, bytes, 1);
      argument[0] = workers;
      argument[1] = 0; // unbounded ones, which no file has: as they are
      this.#limitWorkers(bytes);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #map(parameters: DataView): void {
    const word = (offset: number) => parameters.getUint32(offset, true);
    if ((word(20) & IORING_FEAT_SINGLE_MMAP) === 0) throw new SystemError('io_uring_setup', ENOSYS);
    const [submissions, completions, array, cqes] = [word(0), word(4), word(64), word(100)];
    const ringBytes = Math.max(array + submissions * 4, cqes + completions * CQE_BYTES);
    this.#words = this.#view(ringBytes, IORING_OFF_SQ_RING);
    this.#entries = this.#view(submissions * SQE_BYTES, IORING_OFF_SQES);
    this.#submissionMask = submissions - 1;
    this.#submissionTailWord = word(44) / 4;
    this.#submissionTail = this.#words[this.#submissionTailWord] ?? 0;
    this.#completionMask = completions - 1;
    this.#completionHeadWord = word(80) / 4;
    this.#completionTailWord = word(84) / 4;
    this.#completionHead = this.#words[this.#completionHeadWord] ?? 0;
    this.#completionWord = cqes / 4;
    // Entry n of the ring is always submission entry n.
    for (let index = 0; index < submissions; index++) this.#words[array / 4 + index] = index;
  }

  #view(length: number, offset: number): Uint32Array<ArrayBuffer> {
    const protection = PROT_READ | PROT_WRITE;
    const address = mmap(0, length, protection, MAP_SHARED | MAP_POPULATE, this.#fd, offset);
    this.#mappings.push({ address, length });
    madvise(address, length, MADV_DONTFORK);
    return new Uint32Array(viewOfAddress(address, length).buffer);
  }

  #checkOperations(): void {
    const probe = new Uint8Array(16 + 8 * PROBED_OPERATIONS);
    ioUringRegister(this.#fd, IORING_REGISTER_PROBE, probe, PROBED_OPERATIONS);
    for (const operation of OPERATIONS) {
      if (((probe[16 + 8 * operation + 2] ?? 0) & OP_SUPPORTED) === 0) {
        throw new SystemError('io_uring_register', ENOSYS, `operation ${operation}`);
      }
    }
  }

  #limitWorkers(argument: Uint8Array): void {
    try {
      ioUringRegister(this.#fd, IORING_REGISTER_IOWQ_MAX_WORKERS, argument, 2);
    } catch (error) {
      // Before Linux 5.15 there are four for each processor: fewer at once, none lost.
      if (!(error instanceof SystemError)) throw error;
    }
  }

  /** Entries that were put and not yet taken by the kernel. */
  get unsubmitted(): number {
    return this.#waiting;
  }

  /** Puts one entry (struct io_uring_sqe); the caller bounds how many are under way. */
  put(
    operation: number,
    flags: number,
    fd: number,
    entry: {
      readonly offset: number;
      readonly address: number;
      readonly length: number;
      readonly flags: number;
    },
    userData: number,
  ): void {
    const at = (this.#submissionTail & this.#submissionMask) * SQE_WORDS;
    const entries = this.#entries;
    entries[at] = operation | (flags << 8);
    entries[at + 1] = fd;
    entries[at + 2] = entry.offset;
    entries[at + 3] = Math.floor(entry.offset / HIGH);
    entries[at + 4] = entry.address;
    entries[at + 5] = Math.floor(entry.address / HIGH);
    entries[at + 6] = entry.length;
    entries[at + 7] = entry.flags;
    entries[at + 8] = userData;
    // The upper half of the user data and all that is not used stay 0, as mapped.
    this.#submissionTail = (this.#submissionTail + 1) >>> 0;
    this.#waiting++;
  }

  /** Has the kernel take what was put. @returns 0, or minus the errno that kept it from taking all. */
  enter(): number {
    this.#words[this.#submissionTailWord] = this.#submissionTail;
    // Each round takes one at least: after an entry that is refused, the kernel stops and is asked again.
    while (this.#waiting > 0) {
      const taken = ioUringEnter(this.#fd, this.#waiting);
      if (taken < 0) return taken;
      if (taken === 0) return -11;
      this.#waiting -= taken;
    }
    return 0;
  }

  /** Takes back the youngest entry that the kernel has not taken. @returns its user data */
  takeBack(): number {
    this.#submissionTail = (this.#submissionTail - 1) >>> 0;
    this.#words[this.#submissionTailWord] = this.#submissionTail;
    this.#waiting--;
    return this.#entries[(this.#submissionTail & this.#submissionMask) * SQE_WORDS + 8] ?? 0;
  }

  /**
   * Calls `completed` with user data and result of all that had completed by now. Each is given back
   * to the kernel before its call, which may put, enter and reap.
   */
  reap(completed: (userData: number, result: number) => void): void {
    let left = this.#completionMask + 1;
    while (left-- > 0) {
      const words = this.#words;
      if (words.length === 0) return; // closed by what was called
      if (Atomics.load(words, this.#completionTailWord) === this.#completionHead) return;
      const at = this.#completionWord + (this.#completionHead & this.#completionMask) * 4;
      const userData = words[at] ?? 0;
      const result = (words[at + 2] ?? 0) | 0;
      this.#completionHead = (this.#completionHead + 1) >>> 0;
      Atomics.store(words, this.#completionHeadWord, this.#completionHead);
      completed(userData, result);
    }
  }

  /** Nothing is under way. */
  close(): void {
    this.#words = new Uint32Array(0);
    this.#entries = new Uint32Array(0);
    for (const { address, length } of this.#mappings.splice(0)) munmap(address, length);
    close(this.#fd);
  }
}
