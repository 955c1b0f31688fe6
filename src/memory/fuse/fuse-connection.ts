/**
 * One /dev/fuse: takes the kernel's requests and gives the answers, on the event loop.
 *
 * READ and WRITE, which carry the pages, go by native address and allocate nothing. The connection
 * has one thread and answers each request before it takes the next: whoever serves pages behind it
 * needs no locks. A blocking call on a file of its own mount would wait for itself for ever, so
 * the process that runs this opens and maps none.
 */

import { readToAddress, writeFromAddress } from '../../ffi/file-io.ts';
import {
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../../ffi/poll.ts';
import { SystemError } from '../../ffi/system-error.ts';
import {
  FH_AT,
  FUSE_KERNEL_MINOR_VERSION,
  FUSE_KERNEL_VERSION,
  IN_HEADER_BYTES,
  INIT_OUT_BYTES,
  InitFlag,
  IO_FLAGS_AT,
  IO_IN_BYTES,
  NODE_AT,
  OFFSET_AT,
  Opcode,
  OUT_HEADER_BYTES,
  SIZE_AT,
  UNIQUE_AT,
  WRITE_OUT_BYTES,
} from './abi.ts';
import { EINTR, EINVAL, EIO, ENODEV, ENOENT, ENOSYS } from './errno.ts';

/** Largest READ or WRITE the kernel may send; 256 pages is also its own limit without MAX_PAGES. */
export const MAX_TRANSFER_BYTES = 1024 * 1024;
const MAX_PAGES = MAX_TRANSFER_BYTES / 4096;

/**
 * Requests that the kernel sends without waiting: cache fills, write-backs and DMA share them. Where
 * so many are under way, who sends another waits until this process has answered some: nothing here
 * waits for anybody, so that is a delay, never a circle. The kernel may hold an unprivileged mount
 * to fewer (fs/fuse's max_user_bgreq).
 */
const MAX_BACKGROUND = 256;
/** From here on the kernel leaves out reading ahead. */
const CONGESTION_THRESHOLD = 192;

const IN_BYTES = MAX_TRANSFER_BYTES + 64 * 1024;
/** Answers stand at this offset, so that a READ's data, right behind the header, is page-aligned. */
const OUT_AT = 4096 - OUT_HEADER_BYTES;
const OUT_DATA_AT = 4096;
/** Answers other than data: attributes, names, a directory. */
const ANSWER_BYTES = 8192;
const OUT_BYTES = OUT_DATA_AT + MAX_TRANSFER_BYTES;

/** Requests taken in one turn of the event loop before timers and messages get theirs. */
const REQUESTS_A_TURN = 256;

/** A request for anything but data: names and attributes. `bytes` is the message. */
export interface FuseRequest {
  readonly opcode: number;
  readonly node: number;
  readonly bytes: DataView;
}

/**
 * What a file system does. Results are a count of bytes, or minus an errno.
 */
export interface FuseFileSystem {
  /**
   * Fills `length` bytes at the native address `into` with the file's from `offset` on. `flags` are
   * the request's read flags. @returns bytes filled (fewer only at the end of the file), or -errno.
   */
  read(
    node: number,
    handle: number,
    offset: number,
    length: number,
    into: number,
    flags: number,
  ): number;
  /**
   * Takes `length` bytes at the native address `from`. `flags` are the request's write flags.
   * @returns bytes taken, or -errno.
   */
  write(
    node: number,
    handle: number,
    offset: number,
    length: number,
    from: number,
    flags: number,
  ): number;
  /** Any other request. @returns bytes of answer put into `answer`, or -errno. */
  control(request: FuseRequest, answer: DataView): number;
}

export class FuseConnection {
  readonly #fd: number;
  readonly #files: FuseFileSystem;
  readonly #onEnd: (error: Error | undefined) => void;
  readonly #onFailure: (error: unknown) => void;
  readonly #in: number;
  readonly #inView: DataView;
  readonly #in32: Uint32Array;
  readonly #out: number;
  readonly #answer: DataView;
  readonly #answerBytes: Uint8Array;
  readonly #outHeader: DataView;
  #taken = 0;
  #watch: ReadableWatch | undefined;

  /**
   * Serves until the file system is unmounted or {@link close}.
   * @param fd /dev/fuse, non-blocking, mounted; stays the caller's.
   * @param events `end`: the kernel ended the connection, with an error where it broke; called once.
   *   `failure`: a request was answered with an error for a reason that is not the asker's.
   */
  constructor(
    fd: number,
    files: FuseFileSystem,
    events: { end(error: Error | undefined): void; failure(error: unknown): void },
  ) {
    this.#fd = fd;
    this.#files = files;
    this.#onEnd = events.end;
    this.#onFailure = events.failure;
    // Both buffers live as long as the process: the views over them never dangle.
    this.#in = mapBuffer(IN_BYTES);
    this.#out = mapBuffer(OUT_BYTES);
    const input = viewOfAddress(this.#in, IN_BYTES);
    this.#inView = new DataView(input.buffer, input.byteOffset, IN_BYTES);
    this.#in32 = new Uint32Array(input.buffer, input.byteOffset, IO_IN_BYTES);
    const output = viewOfAddress(this.#out, OUT_BYTES);
    this.#outHeader = new DataView(output.buffer, output.byteOffset + OUT_AT, OUT_HEADER_BYTES);
    this.#answerBytes = output.subarray(OUT_DATA_AT, OUT_DATA_AT + ANSWER_BYTES);
    this.#answer = new DataView(output.buffer, output.byteOffset + OUT_DATA_AT, ANSWER_BYTES);
    this.#watch = watchReadable(fd, () => this.serve());
  }

  /** How many requests came so far. */
  get taken(): number {
    return this.#taken;
  }

  /** Takes no more requests. */
  close(): void {
    this.#watch?.close();
    this.#watch = undefined;
  }

  #end(error: Error | undefined): void {
    if (this.#watch === undefined) return;
    this.close();
    this.#onEnd(error);
  }

  /**
   * Answers the requests that wait now, at most {@link REQUESTS_A_TURN} of them. The event loop calls it when
   * some do; so may whoever has the thread for longer, between two pieces of its work.
   */
  serve(): void {
    for (let taken = 0; taken < REQUESTS_A_TURN && this.#watch !== undefined; taken++) {
      let length: number | undefined;
      try {
        length = readToAddress(this.#fd, this.#in, IN_BYTES);
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        // ENOENT: the request was interrupted while it was handed over. ENODEV: unmounted.
        if (error.errno === ENOENT || error.errno === EINTR) continue;
        this.#end(error.errno === ENODEV ? undefined : error);
        return;
      }
      if (length === undefined) return;
      this.#taken++;
      this.#take(length);
    }
  }

  /** Node, handle and offset: ours or a file's, all below 2^53; a bigint would be garbage a request. */
  #u64(at: number): number {
    return (this.#in32[at / 4] ?? 0) + (this.#in32[at / 4 + 1] ?? 0) * 2 ** 32;
  }

  #take(length: number): void {
    const opcode = this.#in32[1] ?? 0;
    const node = this.#u64(NODE_AT);
    if (length < IN_HEADER_BYTES || this.#in32[0] !== length) {
      this.#end(new Error(`expected a FUSE request of ${this.#in32[0]} bytes, got ${length}`));
      return;
    }
    let result: number | undefined;
    try {
      if (opcode === Opcode.READ) result = this.#read(node);
      else if (opcode === Opcode.WRITE) result = this.#write(node, length);
      else result = this.#control(opcode, node, length);
    } catch (error) {
      // Whoever waits for the page must get an answer, whatever broke here.
      this.#onFailure(error);
      result = -EIO;
    }
    if (result !== undefined) this.#reply(result);
  }

  #read(node: number): number {
    const size = this.#in32[SIZE_AT / 4] ?? 0;
    if (size > MAX_TRANSFER_BYTES) return -EINVAL;
    const flags = this.#in32[IO_FLAGS_AT / 4] ?? 0;
    const into = this.#out + OUT_DATA_AT;
    return this.#files.read(node, this.#u64(FH_AT), this.#u64(OFFSET_AT), size, into, flags);
  }

  #write(node: number, length: number): number {
    const size = this.#in32[SIZE_AT / 4] ?? 0;
    const flags = this.#in32[IO_FLAGS_AT / 4] ?? 0;
    const dataAt = IN_HEADER_BYTES + IO_IN_BYTES;
    if (dataAt + size > length) return -EINVAL;
    const from = this.#in + dataAt;
    const done = this.#files.write(node, this.#u64(FH_AT), this.#u64(OFFSET_AT), size, from, flags);
    if (done < 0) return done;
    this.#answer.setUint32(0, done, true);
    this.#answer.setUint32(4, 0, true);
    return WRITE_OUT_BYTES;
  }

  /** @returns bytes of answer, -errno, or undefined where the request has no answer. */
  #control(opcode: number, node: number, length: number): number | undefined {
    switch (opcode) {
      case Opcode.INIT:
        return this.#init(length);
      case Opcode.FORGET:
      case Opcode.BATCH_FORGET:
      case Opcode.NOTIFY_REPLY:
        return undefined;
      case Opcode.INTERRUPT:
        return -ENOSYS; // Requests are answered at once; none is there to interrupt.
      case Opcode.DESTROY:
        return 0; // The next read(2) says ENODEV.
    }
    this.#answerBytes.fill(0);
    const bytes = new DataView(this.#inView.buffer, this.#inView.byteOffset, length);
    return this.#files.control({ opcode, node, bytes }, this.#answer);
  }

  #init(length: number): number {
    const major = this.#inView.getUint32(40, true);
    const minor = this.#inView.getUint32(44, true);
    const offered = this.#inView.getUint32(52, true);
    const wanted =
      InitFlag.ASYNC_READ |
      InitFlag.BIG_WRITES |
      InitFlag.ASYNC_DIO |
      InitFlag.WRITEBACK_CACHE |
      InitFlag.ABORT_ERROR |
      InitFlag.MAX_PAGES |
      InitFlag.EXPLICIT_INVAL_DATA;
    // Without the write-back cache every store would have to be a request; without explicit
    // invalidation the kernel would drop pages by the file's times.
    if (length < 56 || major < FUSE_KERNEL_VERSION || (offered & wanted) !== wanted) {
      this.#onFailure(
        new Error(
          `expected a kernel that offers FUSE flags 0x${wanted.toString(16)}, got protocol ` +
            `${major}.${minor} with 0x${offered.toString(16)}: Linux 5.2 or newer is needed`,
        ),
      );
      return -EINVAL;
    }
    const out = this.#answer;
    this.#answerBytes.fill(0, 0, INIT_OUT_BYTES);
    out.setUint32(0, FUSE_KERNEL_VERSION, true);
    out.setUint32(4, Math.min(minor, FUSE_KERNEL_MINOR_VERSION), true);
    out.setUint32(8, MAX_TRANSFER_BYTES, true); // max_readahead
    out.setUint32(12, wanted, true);
    out.setUint16(16, MAX_BACKGROUND, true);
    out.setUint16(18, CONGESTION_THRESHOLD, true);
    out.setUint32(20, MAX_TRANSFER_BYTES, true); // max_write
    out.setUint32(24, 1, true); // time_gran
    out.setUint16(28, MAX_PAGES, true);
    return INIT_OUT_BYTES;
  }

  /** Sends the answer to the request that is in the buffer: that many bytes of it, or -errno. */
  #reply(result: number): void {
    const header = this.#outHeader;
    const bytes = OUT_HEADER_BYTES + Math.max(result, 0);
    header.setUint32(0, bytes, true);
    header.setInt32(4, Math.min(result, 0), true);
    header.setUint32(8, this.#in32[UNIQUE_AT / 4] ?? 0, true);
    header.setUint32(12, this.#in32[UNIQUE_AT / 4 + 1] ?? 0, true);
    try {
      writeFromAddress(this.#fd, this.#out + OUT_AT, bytes);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      // ENOENT: who asked was killed meanwhile. ENODEV: the mount went away under the answer.
      if (error.errno === ENOENT) return;
      this.#end(error.errno === ENODEV ? undefined : error);
    }
  }
}

function mapBuffer(bytes: number): number {
  return mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
}
