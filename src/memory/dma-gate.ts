/**
 * What the two ends of a DMA share beside the RAM file: one page of words and a counter a page.
 *
 * ## Why a DMA write loses nothing, and neither does a vCPU
 *
 * The RAM file's page cache plays the CPU's cache. The device's process does a DMA with direct I/O on
 * that file, opened with O_DIRECT, so the kernel itself makes the cache give way. One access is a
 * pread(2) or pwrite(2); a batch is an io_submit(2) of many, and one io_getevents(2) that waits for
 * them all (sealed-batch.ts). For each request:
 *
 * - **Read.** Before the kernel sends the READ to the controller it writes the range's dirty pages
 *   back and waits (kiocb_write_and_wait, then fuse_sync_writes for write-backs already on their
 *   way). A store that the guest ordered before its doorbell has made its page dirty before
 *   the doorbell left the vCPU, and dirty tags are exact on a shared file mapping (the first
 *   store after a write-back faults). So the store is in DRAM when the controller decrypts.
 *
 * - **Write.** Before the kernel sends the WRITE it writes dirty pages of the range back and drops
 *   the range from the cache (invalidate_inode_pages2_range: each folio is locked, unmapped from
 *   every vCPU, laundered if it was dirtied meanwhile, and removed). What the vCPUs stored in those
 *   pages is now in DRAM, and the controller changes exactly the DMA's bytes there.
 *   But a vCPU may have faulted a page in again after the drop and before the controller had the
 *   WRITE; it would go on with the old bytes and write them back over the new ones. The only way into
 *   the cache for old bytes is a READ that the controller answered. So the controller counts, for each
 *   page, the READs it answered, *before* it answers. The device's process adds up the counters of its
 *   range before it asks the kernel for the write, and leaves the sum here; the controller adds them
 *   up again when the WRITE arrives.
 *
 *     Equal sums: no READ of the range was answered since the first sum, which was before the drop.
 *     A READ counted before the first sum filled a folio that was locked in the cache from before
 *     it was sent until after it was answered, so the drop waited for it and took it out. Hence no
 *     page of the range is in the cache when DRAM changes. One whose READ is waiting behind this
 *     WRITE will be filled with the new bytes, as the controller takes one request at a time.
 *     Unequal sums: the WRITE is answered EAGAIN, nothing is changed, and the device tries again.
 *
 *   Nothing is ever held off: no READ waits for a DMA, so no invalidation can wait for a READ that
 *   waits for it. The price is that a page under constant fire takes several tries.
 *
 * Where the kernel cannot drop a page (EBUSY) it takes the write through the page cache instead. That
 * is coherent, but it is not a DMA: the controller knows such requests by their flags, serves them as
 * the CPU's, and the device's process tries again (ram-file-system.ts).
 *
 * ## Why that holds for many at once
 *
 * - *The order within a request is the same.* io_submit runs each request's write-back and drop on the
 *   caller's thread (aio_read, aio_write: no IOCB_NOWAIT) and only then queues its READ or WRITE, as the
 *   connection has FUSE_ASYNC_DIO (fuse_direct_IO returns EIOCBQUEUED instead of waiting). All sums
 *   are taken before the io_submit, hence before each drop.
 * - *The inode lock is not held any more when a WRITE arrives*, as it is around a pwrite. It kept out
 *   buffered writes, write(2) by whoever opened the file in the plain way. One of a part of a page has to
 *   READ the page first, which is counted. One of a whole page brings no old byte: the CPU stored
 *   every byte of that page while the DMA was under way, and comes after it.
 * - *A fallback in the same batch* (EBUSY, above) is such a buffered write, over before io_submit goes
 *   on to the next request. If its page also holds bytes of another request, that one meets a counted
 *   READ, or a page that is not up to date, which no vCPU can map before a READ.
 * - *The kernel drops the range once more after a pwrite*, and not after an asynchronous write. Nothing
 *   above needs it: what enters the cache after the WRITE enters with the new bytes.
 * - *Which request is which.* A request says its range and no more. Each has an entry here, of
 *   {range, slot, sum, outcome}; ranges that are under way together never overlap, and no request is
 *   ever split by the kernel: it is shorter than max_write and max_pages, its buffer is mapped, its range
 *   lies inside the file. Were one split or cut short all the same, its parts would find no entry, and
 *   fail.
 * - *It is over on return.* A batch whose answers do not come (somebody stopped the controller) is
 *   given up: its entries are withdrawn, so that what is still queued finds none and does nothing, and
 *   no DMA is taken any more (SealedPort.giveUp). If the controller dies, the kernel ends them all.
 * - *No circle.* The batch shares the queue of background requests with fills and write-backs
 *   (fuse-connection.ts, MAX_BACKGROUND). Where it is full, io_submit waits, with the inode lock in
 *   hand for a write; whoever it waits for waits for the controller alone, which waits for nobody.
 *
 * ## Writes that need no drop
 *
 * A page that was dropped for a DMA write is out of the cache until the next READ of it, and the counters
 * tell whether there was one (dropped-pages.ts). A batch of writes to such pages goes in one message:
 * one write to the RAM file's *scatter file*, which has no cache, with all bytes; which of them go where
 * is in the entries. The controller looks at each entry's sum as it does for a WRITE of its own, and on the
 * same thread: equal, and no READ of the range was answered since the drop, so no page of it is in the
 * cache, and one whose READ waits is filled with the new bytes. No store can be lost, for there was
 * nothing to store to; and no write-back is on its way, since the drop waited for those (and what is
 * out of the cache cannot become dirty). A device whose buffers the guest does not look at, or has not
 * looked at yet, pays for the bytes alone.
 *
 * What all this rests on: of Linux, parts of fs/fuse/file.c were read; fs/fuse/dev.c, mm/filemap.c
 * (generic_file_direct_write), fs/aio.c and what changed in any of them between 6.1 and 6.18 are known
 * from excerpts. It was tortured on 6.18 alone. Before 6.16 a write-back copies its pages and it is
 * fuse_sync_writes that waits for it, and before 6.7 each completion wakes io_getevents: that changes
 * the price, not the order.
 *
 * ## What it does not cover
 *
 * - A page that the kernel holds pinned for somebody's own O_DIRECT or vfio I/O is dropped under the
 *   pin: what arrives there is lost if a DMA wrote to that page meanwhile. So QEMU's disks must not be
 *   cache=none.
 * - A vCPU's first store to a page marks it dirty a moment after the page has become writable (the
 *   kernel's do_shared_fault); a DMA read misses what another vCPU stored within that moment if it
 *   also begins within it. msync(2) has the same gap.
 *
 * The words are plain loads and stores. Each is ordered by the system calls on both sides: the
 * device's stores are before its io_submit or pwrite, which is before the controller's read(2) of the
 * request. A counter that the device reads too old only costs a try.
 */
import { viewOfAddress } from '../ffi/libc.ts';

const PAGE_BYTES = 4096;
/** How many accesses may be asked for at a time. */
export const GATE_ENTRIES = 64;

/** What became of an access that the device's process asked for. */
export const GateOutcome = {
  /** The controller has not seen it. */
  none: 0,
  done: 1,
  /** A page of the range was filled meanwhile: try again. */
  refilled: 2,
  /** The slot is not one that this memory's VM may use now. */
  slotRefused: 3,
} as const;

/** What is to become of the pages of an access, whole ones; see shared-pages.ts. */
export const Becomes = {
  /** Nothing: it is a DMA. */
  same: 0,
  shared: 1,
  private: 2,
} as const;

export type Becomes = (typeof Becomes)[keyof typeof Becomes];

/** The first word is the number of entries asked for; entries begin at word 16, 8 words each. */
const COUNT = 0;
const ENTRIES_AT = 16;
const ENTRY_WORDS = 8;
const OFFSET = 0;
const OFFSET_HIGH = 1;
const LENGTH = 2;
const SLOT = 3;
const FILLS_EXPECTED = 4;
const OUTCOME = 5;
const PLACE = 6;
const BECOMES = 7;
const HEADER_BYTES = PAGE_BYTES;
const HEADER_WORDS = HEADER_BYTES / Uint32Array.BYTES_PER_ELEMENT;

export class DmaGate {
  readonly #words: Uint32Array;
  /** Cache fills of each page, as the controller counts them. */
  readonly fills: Uint32Array;
  /** The controller's side: requests come in the order of their entries, nearly always. */
  #next = 0;

  /**
   * @param address a shared mapping of {@link DmaGate.bytesFor} bytes, which outlives the gate.
   * @param memoryBytes size of the memory behind it.
   */
  constructor(address: number, memoryBytes: number) {
    const bytes = viewOfAddress(address, DmaGate.bytesFor(memoryBytes));
    this.#words = new Uint32Array(bytes.buffer, bytes.byteOffset, HEADER_WORDS);
    this.fills = new Uint32Array(
      bytes.buffer,
      bytes.byteOffset + HEADER_BYTES,
      memoryBytes / PAGE_BYTES,
    );
  }

  static bytesFor(memoryBytes: number): number {
    return HEADER_BYTES + (memoryBytes / PAGE_BYTES) * Uint32Array.BYTES_PER_ELEMENT;
  }

  /**
   * The device's side: fills in entry `index` (below {@link GATE_ENTRIES}). The controller looks at it
   * once {@link open} names it; entries that are open at the same time must not overlap.
   */
  ask(
    index: number,
    slot: number,
    offset: number,
    length: number,
    becomes: Becomes = Becomes.same,
  ): void {
    this.#ask(index, slot, offset, length, this.#fillsOf(offset, length), becomes);
  }

  /**
   * The device's side: as {@link ask}, for pages that are out of the cache as long as the sum of their
   * fills is `expected`. The bytes are the message's from `place` on (SealedFile.dmaScatter).
   */
  askDropped(
    index: number,
    slot: number,
    range: { readonly offset: number; readonly length: number; readonly place: number },
    expected: number,
  ): void {
    this.#ask(index, slot, range.offset, range.length, expected, Becomes.same);
    this.#words[ENTRIES_AT + index * ENTRY_WORDS + PLACE] = range.place;
  }

  /** The device's side: the sum of fills that an entry was asked with. */
  expected(index: number): number {
    return this.#words[ENTRIES_AT + index * ENTRY_WORDS + FILLS_EXPECTED] ?? 0;
  }

  #ask(
    index: number,
    slot: number,
    offset: number,
    length: number,
    expected: number,
    becomes: Becomes,
  ): void {
    const at = ENTRIES_AT + index * ENTRY_WORDS;
    const words = this.#words;
    words[at + OFFSET] = offset;
    words[at + OFFSET_HIGH] = offset / 2 ** 32;
    words[at + LENGTH] = length;
    words[at + SLOT] = slot;
    words[at + OUTCOME] = GateOutcome.none;
    words[at + FILLS_EXPECTED] = expected;
    words[at + BECOMES] = becomes;
  }

  /** The device's side: the first `count` entries are asked for; 0 withdraws them all. */
  open(count: number): void {
    this.#words[COUNT] = count;
  }

  /** The device's side: what became of an entry. */
  outcome(index: number): number {
    return this.#words[ENTRIES_AT + index * ENTRY_WORDS + OUTCOME] ?? GateOutcome.none;
  }

  /** The controller's side: how many entries are asked for. */
  get count(): number {
    // The page is shared: its count is only as good as who wrote it.
    return Math.min(this.#words[COUNT] ?? 0, GATE_ENTRIES);
  }

  /** The controller's side: an entry's range, and where its bytes lie in a message of many. */
  offset(index: number): number {
    const at = ENTRIES_AT + index * ENTRY_WORDS;
    return (this.#words[at + OFFSET] ?? 0) + (this.#words[at + OFFSET_HIGH] ?? 0) * 2 ** 32;
  }

  length(index: number): number {
    return this.#words[ENTRIES_AT + index * ENTRY_WORDS + LENGTH] ?? 0;
  }

  place(index: number): number {
    return this.#words[ENTRIES_AT + index * ENTRY_WORDS + PLACE] ?? 0;
  }

  /** The controller's side: the entry that a direct request is for, or -1 where none asks for it. */
  find(offset: number, length: number): number {
    const { count } = this;
    for (let turn = 0, index = this.#next; turn < count; turn++, index++) {
      if (index >= count) index = 0;
      if (this.length(index) === length && this.offset(index) === offset) {
        this.#next = index + 1;
        return index;
      }
    }
    return -1;
  }

  /** The controller's side: what is to become of the pages. */
  becomes(index: number): number {
    return this.#words[ENTRIES_AT + index * ENTRY_WORDS + BECOMES] ?? Becomes.same;
  }

  /** The controller's side: the slot that the IOMMU resolved, or IN_CLEAR. */
  slot(index: number): number {
    return this.#words[ENTRIES_AT + index * ENTRY_WORDS + SLOT] ?? 0;
  }

  /** The controller's side: whether the range stayed out of the cache since it was asked for. */
  undisturbed(index: number, offset: number, length: number): boolean {
    const expected = this.#words[ENTRIES_AT + index * ENTRY_WORDS + FILLS_EXPECTED];
    return this.#fillsOf(offset, length) === expected;
  }

  settle(index: number, outcome: number): void {
    this.#words[ENTRIES_AT + index * ENTRY_WORDS + OUTCOME] = outcome;
  }

  /** The controller's side: a cache fill of the range is about to be answered. */
  filled(offset: number, length: number): void {
    const last = Math.floor((offset + length - 1) / PAGE_BYTES);
    for (let page = Math.floor(offset / PAGE_BYTES); page <= last; page++) {
      this.fills[page] = (this.fills[page] ?? 0) + 1;
    }
  }

  #fillsOf(offset: number, length: number): number {
    const last = Math.floor((offset + length - 1) / PAGE_BYTES);
    let sum = 0;
    for (let page = Math.floor(offset / PAGE_BYTES); page <= last; page++) {
      sum = (sum + (this.fills[page] ?? 0)) >>> 0;
    }
    return sum;
  }
}
