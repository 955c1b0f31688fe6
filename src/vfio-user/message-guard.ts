/**
 * Looks at each message while it still waits in the socket, before libvfio-user reads it.
 *
 * The library trusts its client more than a server of guests may. It reads a message's body
 * blocking, so that a header alone would stop the process; SET_IRQS with start + count past 2^32
 * makes it close descriptors at random; a map whose file is shorter than the region gives memory
 * that kills with SIGBUS; an offset that is not a multiple of the file's block is mapped short; a
 * message that breaks off leaks its descriptors; after a bad header it goes on in the middle of the
 * stream. So a message goes to the library only once it is whole and its numbers make sense; else
 * it is taken off the socket and refused with an errno, or the connection ends.
 *
 * The cost is one recvmsg(MSG_PEEK) of 64 bytes a message. It takes the place of the vfu_run_ctx
 * that would find nothing. The two commands that carry descriptors cannot be judged by peeking (a
 * peek does not say which message they belong to): those are taken off the socket, and given to
 * the library over a socket pair of our own.
 */
import { type BigIntStats, fstatSync, readlinkSync } from 'node:fs';
import {
  close,
  duplicate,
  F_SEAL_SHRINK,
  fileFlags,
  fileSeals,
  O_ACCMODE,
  O_NONBLOCK,
  PAGE_SIZE,
  peerHasEnded,
  SystemError,
} from '../ffi/libc.ts';
import { bytesWaiting, discard, MessageBuffer } from '../ffi/unix-socket.ts';
import type { DmaRegions } from './dma-regions.ts';
import type { InterruptWires } from './interrupts.ts';
import {
  COMMAND,
  DATA_BYTES_MAX,
  DMA_MAP_BYTES,
  DMA_READABLE,
  DMA_UNMAP_ALL,
  DMA_UNMAP_BYTES,
  DMA_WRITABLE,
  ERRNO,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  HEADER_BYTES,
  IRQ_ACTION_TRIGGER,
  IRQ_ACTIONS,
  IRQ_DATA_BOOL,
  IRQ_DATA_EVENTFD,
  IRQ_DATA_MASK,
  IRQ_DATA_NONE,
  MESSAGE_BYTES_MAX,
  MESSAGE_TYPE_MASK,
  putHeader,
  REGION_ACCESS_BYTES,
  SET_IRQS_BYTES,
  TYPE_COMMAND,
  TYPE_REPLY,
} from './protocol.ts';

const PEEK_BYTES = 64;
/** Room for SET_IRQS with a byte for each of 2048 vectors. */
const TAKEN_BYTES_MAX = 4096;
const PIECES_MAX = 8;

/**
 * - run: a whole message that the library may have;
 * - taken: the same, but it has been taken off the socket (see {@link MessageGuard.taken});
 * - empty: nothing waits; partial: the rest has not come yet;
 * - refused: it was answered with an errno; look for the next;
 * - ended: the client has closed; broken: it must be disconnected (see {@link MessageGuard.why}).
 */
export type Verdict = 'run' | 'taken' | 'empty' | 'partial' | 'refused' | 'ended' | 'broken';

export interface TakenMessage {
  readonly message: MessageBuffer;
  readonly length: number;
  /** To be closed once the library has its own. */
  readonly descriptors: readonly number[];
}

export class MessageGuard {
  /** Why the last message was refused or broke the connection. */
  why = '';
  /** What the verdict `taken` speaks of. */
  taken: TakenMessage | undefined;
  /** To be called after the library has run, where set. */
  afterwards: (() => void) | undefined;
  readonly #regions: DmaRegions;
  readonly #wires: InterruptWires;
  readonly #message = new MessageBuffer(PEEK_BYTES);
  readonly #whole = new MessageBuffer(TAKEN_BYTES_MAX);
  readonly #reply = new MessageBuffer(HEADER_BYTES);
  readonly #scratch = new Uint8Array(4096);

  constructor(regions: DmaRegions, wires: InterruptWires) {
    this.#regions = regions;
    this.#wires = wires;
  }

  /** Looks at the message that waits at `fd`. */
  admit(fd: number): Verdict {
    this.afterwards = undefined;
    const message = this.#message;
    let seen: number | undefined;
    try {
      seen = message.peek(fd);
    } catch (error) {
      // ECONNRESET and the like: the library finds out by itself, and resets.
      if (error instanceof SystemError) return 'ended';
      throw error;
    }
    if (seen === undefined) return 'empty';
    if (seen === 0) return 'ended';
    if (seen < HEADER_BYTES) return this.#partial(fd);
    const view = message.view;
    const size = view.getUint32(4, true);
    const type = view.getUint32(8, true) & MESSAGE_TYPE_MASK;
    if (type !== TYPE_COMMAND || size < HEADER_BYTES || size > MESSAGE_BYTES_MAX) {
      this.why = `a message header of type ${type} and ${size} bytes`;
      return 'broken';
    }
    if ((size > PEEK_BYTES || seen < size) && bytesWaiting(fd) < size) return this.#partial(fd);
    const command = view.getUint16(2, true);
    if (command === COMMAND.dmaMap || command === COMMAND.setIrqs) return this.#take(fd, size);
    // A peek ends behind the first descriptors: where it saw more than the message, they are not
    // the message's own. Where it could not see so far, the library closes what it did not expect.
    const withDescriptors = message.withDescriptors && seen <= size && size < PEEK_BYTES;
    const errno = withDescriptors
      ? this.#no(`descriptors beside command ${command}`)
      : this.#check(command, size, Math.min(seen, size));
    return errno === 0 ? 'run' : this.#refuse(fd, size, errno);
  }

  #partial(fd: number): Verdict {
    if (!peerHasEnded(fd)) return 'partial';
    this.why = 'it ended in the middle of a message';
    return 'broken';
  }

  /** Takes a message that may have descriptors, and judges it. */
  #take(fd: number, size: number): Verdict {
    if (size > TAKEN_BYTES_MAX) {
      return this.#refuse(
        fd,
        size,
        this.#no(`a message of ${size} bytes that may have descriptors`),
      );
    }
    const descriptors: number[] = [];
    let handedOver = false;
    try {
      if (!this.#receiveWhole(fd, size, descriptors)) {
        this.why = 'a message in too many pieces';
        return 'broken';
      }
      const errno =
        this.#whole.view.getUint16(2, true) === COMMAND.dmaMap
          ? this.#checkMap(size, descriptors)
          : this.#checkSetIrqs(size, descriptors);
      if (errno !== 0) return this.#answer(fd, errno);
      this.taken = { message: this.#whole, length: size, descriptors };
      handedOver = true;
      return 'taken';
    } finally {
      if (!handedOver) for (const descriptor of descriptors) close(descriptor);
    }
  }

  /** recvmsg stops where descriptors begin or end, so a message may come in a few pieces. */
  #receiveWhole(fd: number, size: number, descriptors: number[]): boolean {
    const whole = new Uint8Array(size);
    for (let length = 0, pieces = 0; length < size; pieces++) {
      if (pieces === PIECES_MAX) return false;
      const piece = this.#whole.receive(fd, size - length);
      if (piece === undefined || piece.count === 0) return false;
      descriptors.push(...piece.descriptors);
      whole.set(this.#whole.bytes.subarray(0, piece.count), length);
      length += piece.count;
    }
    this.#whole.bytes.set(whole);
    return true;
  }

  /** @returns 0, or the errno to refuse with; `seen` bytes of it are visible */
  #check(command: number, size: number, seen: number): number {
    switch (command) {
      case COMMAND.regionRead:
      case COMMAND.regionWrite:
        return this.#checkAccess(command, size, seen);
      case COMMAND.dmaUnmap:
        return this.#checkUnmap(size, seen);
      case COMMAND.deviceReset:
        return 0;
      case COMMAND.deviceInfo:
      case COMMAND.regionInfo:
      case COMMAND.irqInfo:
        return size > HEADER_BYTES ? 0 : this.#no('an information request without a body');
      default:
        return this.#no(`command ${command}`, ERRNO.EOPNOTSUPP);
    }
  }

  #checkAccess(command: number, size: number, seen: number): number {
    if (size < HEADER_BYTES + REGION_ACCESS_BYTES || seen < HEADER_BYTES + REGION_ACCESS_BYTES) {
      return this.#no(`a region access of ${size} bytes`);
    }
    const count = this.#message.view.getUint32(HEADER_BYTES + 12, true);
    const data = size - HEADER_BYTES - REGION_ACCESS_BYTES;
    if (count > DATA_BYTES_MAX || (command === COMMAND.regionWrite && data !== count)) {
      return this.#no(`a region access of ${count} bytes with ${data} bytes of data`);
    }
    return 0;
  }

  #checkMap(size: number, descriptors: readonly number[]): number {
    const view = this.#whole.view;
    if (size < HEADER_BYTES + DMA_MAP_BYTES) return this.#no(`a DMA map of ${size} bytes`);
    const flags = view.getUint32(20, true);
    const offset = Number(view.getBigUint64(24, true));
    const gpa = Number(view.getBigUint64(32, true));
    const bytes = Number(view.getBigUint64(40, true));
    const what = `DMA map of 0x${bytes.toString(16)} bytes at 0x${gpa.toString(16)}`;
    if ((flags & ~(DMA_READABLE | DMA_WRITABLE)) !== 0) return this.#no(`${what}, flags ${flags}`);
    if (
      bytes === 0 ||
      gpa + bytes > Number.MAX_SAFE_INTEGER ||
      offset + bytes > Number.MAX_SAFE_INTEGER
    ) {
      return this.#no(`${what}: outside the addresses that there are`);
    }
    if (this.#regions.full) return this.#no(`${what}: no region is left`, ERRNO.ENOSPC);
    if (this.#regions.overlaps(gpa, bytes)) {
      return this.#no(`${what}: overlaps a region`, ERRNO.EEXIST);
    }
    const [descriptor] = descriptors;
    if (descriptors.length > 1) return this.#no(`${what} with ${descriptors.length} descriptors`);
    if (descriptor === undefined) {
      this.#regions.requested({ gpa, size: bytes, file: undefined });
      return 0;
    }
    const file = fileOf(descriptor);
    if (file === undefined) return this.#no(`${what}: its file does not answer`);
    // libvfio-user aligns to the file's block size (huge pages), and maps short where that cuts.
    const unit = Math.max(PAGE_SIZE, Number(file.blksize));
    if (gpa % PAGE_SIZE !== 0 || bytes % PAGE_SIZE !== 0 || offset % unit !== 0) {
      return this.#no(`${what}, offset 0x${offset.toString(16)}: not aligned`);
    }
    if (!file.isFile() || Number(file.size) < offset + bytes) {
      return this.#no(`${what}: its file ends at 0x${file.size.toString(16)}`);
    }
    const access = fileFlags(descriptor) & O_ACCMODE;
    if (access === 1 || (access === 0 && (flags & DMA_WRITABLE) !== 0)) {
      return this.#no(`${what}: its descriptor does not allow that`, ERRNO.EBADF);
    }
    const fixedSize = (fileSeals(descriptor) & F_SEAL_SHRINK) !== 0;
    const { dev: device, ino: inode } = file;
    this.#regions.requested({ gpa, size: bytes, file: { device, inode, offset, fixedSize } });
    return 0;
  }

  #checkUnmap(size: number, seen: number): number {
    const view = this.#message.view;
    if (size < HEADER_BYTES + DMA_UNMAP_BYTES || seen < HEADER_BYTES + DMA_UNMAP_BYTES) {
      return this.#no(`a DMA unmap of ${size} bytes`);
    }
    const flags = view.getUint32(20, true);
    const gpa = Number(view.getBigUint64(24, true));
    const bytes = Number(view.getBigUint64(32, true));
    if (flags === DMA_UNMAP_ALL && gpa === 0 && bytes === 0) return 0;
    if (flags !== 0) return this.#no(`a DMA unmap with flags ${flags}`);
    return this.#regions.has(gpa, bytes)
      ? 0
      : this.#no(`a DMA unmap of 0x${gpa.toString(16)}, which is not mapped so`, ERRNO.ENOENT);
  }

  #checkSetIrqs(size: number, descriptors: readonly number[]): number {
    const withDescriptors = descriptors.length > 0;
    if (size < HEADER_BYTES + SET_IRQS_BYTES) return this.#no(`a SET_IRQS of ${size} bytes`);
    const view = this.#whole.view;
    const flags = view.getUint32(20, true);
    const index = view.getUint32(24, true);
    const start = view.getUint32(28, true);
    const count = view.getUint32(32, true);
    const action = flags & IRQ_ACTIONS;
    const kind = flags & IRQ_DATA_MASK;
    const what = `SET_IRQS index ${index}, ${start} + ${count}, flags ${flags}`;
    const vectors = this.#wires.counts[index] ?? 0;
    const inside = start < vectors && start + count <= vectors && (count > 0 || start === 0);
    const oneAction = action === 8 || action === 16 || action === IRQ_ACTION_TRIGGER;
    const oneKind = kind === IRQ_DATA_NONE || kind === IRQ_DATA_BOOL || kind === IRQ_DATA_EVENTFD;
    if (!inside || !oneAction || !oneKind || (flags & ~(IRQ_ACTIONS | IRQ_DATA_MASK)) !== 0) {
      return this.#no(what);
    }
    if (withDescriptors && kind !== IRQ_DATA_EVENTFD) return this.#no(`${what}, with descriptors`);
    if (action !== IRQ_ACTION_TRIGGER) return 0;
    if (
      (kind === IRQ_DATA_NONE && count === 0) ||
      (kind === IRQ_DATA_EVENTFD && !withDescriptors)
    ) {
      this.#wires.unwire(index, start, count);
      return 0;
    }
    if (kind !== IRQ_DATA_EVENTFD) {
      return this.#wires.neverBlocks ? 0 : this.#no(`${what}: an eventfd of it may wait`);
    }
    return this.#checkEventfds(what, [index, start, count], descriptors);
  }

  #checkEventfds(
    what: string,
    [index, start, count]: readonly [number, number, number],
    descriptors: readonly number[],
  ): number {
    if (descriptors.length !== count) {
      return this.#no(`${what}, with ${descriptors.length} descriptors`);
    }
    for (const descriptor of descriptors) {
      if (readlinkSync(`/proc/self/fd/${descriptor}`) !== 'anon_inode:[eventfd]') {
        return this.#no(`${what}: a descriptor that is no eventfd`, ERRNO.EBADF);
      }
    }
    const blocking = descriptors.map((descriptor) =>
      (fileFlags(descriptor) & O_NONBLOCK) === 0 ? duplicate(descriptor) : undefined,
    );
    this.#wires.wire(index, start, blocking);
    this.afterwards = () => this.#wires.wiredNow(index);
    return 0;
  }

  #no(why: string, errno: number = ERRNO.EINVAL): number {
    this.why = why;
    return errno;
  }

  /** Takes the message off the socket and answers it with the errno. */
  #refuse(fd: number, size: number, errno: number): Verdict {
    // recv(2) stops where descriptors begin or end, so a few rounds beyond size / scratch.
    for (let left = size, rounds = 0; left > 0; rounds++) {
      const taken = rounds < 1000 ? discard(fd, this.#scratch, left) : undefined;
      if (taken === undefined || taken === 0) return 'broken';
      left -= taken;
    }
    return this.#answer(fd, errno);
  }

  #answer(fd: number, errno: number): Verdict {
    const view = this.#message.view;
    if ((view.getUint32(8, true) & FLAG_NO_REPLY) !== 0) return 'refused';
    const id = view.getUint16(0, true);
    const command = view.getUint16(2, true);
    putHeader(this.#reply.view, id, command, HEADER_BYTES, TYPE_REPLY | FLAG_ERROR, errno);
    try {
      return this.#reply.send(fd, HEADER_BYTES) === HEADER_BYTES ? 'refused' : 'broken';
    } catch (error) {
      if (error instanceof SystemError) return 'broken';
      throw error;
    }
  }
}

/** What fstat(2) says; undefined where the descriptor is of a file system that is gone. */
function fileOf(descriptor: number): BigIntStats | undefined {
  try {
    return fstatSync(descriptor, { bigint: true });
  } catch {
    return undefined;
  }
}
