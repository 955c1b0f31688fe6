/**
 * The available and the used ring of a split virtqueue, virtio 1.2 sections 2.7.6 to 2.7.10, as one
 * enabling of a queue sees them.
 *
 * Who must see what before what. The driver runs on other CPUs, at any time:
 *
 * 1. avail.idx, then avail.ring, then descriptors and buffers. The driver stores descriptors, ring
 *    entry and idx in this order; idx is what says that the rest is there. So idx is read by an access
 *    of its own, and what it covers by later ones. One access over idx and ring would have no order
 *    within: a copy may load its last bytes first, and find an entry of the lap before.
 * 2. Buffers and used.ring, then used.idx. Replies and elements go in one batch, which is over before
 *    the idx is written by an access of its own.
 * 3. used.idx, then avail.flags or used_event, to decide on the interrupt: a store before a load. A
 *    driver that wants to sleep stores used_event and then looks at used.idx; with both sides' stores
 *    still in their store buffers, it would sleep and we would not wake it.
 * 4. avail_event, then avail.idx: the same the other way round. A driver stores idx and then looks at
 *    avail_event; we ask to be told and then look whether there is something already.
 *
 * What holds this up on x86-64: loads are not reordered with loads, nor stores with stores, nor a
 * load with a later store (Intel SDM volume 3, 8.2.2), and QEMU's TCG gives a guest's barriers the
 * same strength. In plain memory the port's access is a memcpy through FFI, which V8 moves nowhere,
 * and of 2 or 4 aligned bytes it is one load or store, never torn. Only 3 and 4 need more, a store
 * before a load: fullFence(). In sealed memory an access is a system call that returns when it is
 * done: reads after a write-back of the CPU's side, writes into DRAM with the page dropped from the
 * CPU's cache. Those are ordered as they are made; the fence costs nothing beside them.
 */
import type { DmaPort, Iova } from '../pci/dma-port.ts';
import type { ResetAbort } from '../pci/epoch.ts';
import { fullFence } from '../pci/full-fence.ts';
import { type ChainBuffers, DescriptorTable } from './descriptors.ts';
import { DmaList } from './dma-list.ts';
import { iovaPlus } from './iova.ts';
import { RingError } from './ring-error.ts';

/** Chains fetched at once. */
const FETCH_MAX = 64;
const NO_INTERRUPT = 1;

export interface RingPlace {
  readonly size: number;
  readonly descriptors: Iova;
  /** The driver area: the available ring. */
  readonly driver: Iova;
  /** The device area: the used ring. */
  readonly device: Iova;
  readonly indirect: boolean;
  readonly eventIndex: boolean;
}

export class SplitRing {
  readonly dma: DmaPort;
  readonly size: number;
  /** Replies that wait for the next publication, or for more of them. */
  readonly replies = new DmaList();
  /** For accesses of a chain that are made at once. */
  readonly transfers = new DmaList();
  /** Why the ring is no more: a reset of its queue or of its device. */
  ended: ResetAbort | undefined;
  readonly #place: RingPlace;
  readonly #table: DescriptorTable;
  readonly #list = new DmaList();
  /** 1 for each head that the driver may not use again yet. */
  readonly #busy: Uint8Array;
  /** Of the next entry to fetch. */
  #next = 0;
  /** avail.idx as it was read last. */
  #available = 0;
  /** used.idx as it was written last. */
  #used = 0;
  /** avail_event as it was written last. */
  #armedAt = 0;
  readonly #entries: DataView;
  readonly #elements: DataView;
  /** avail.flags and avail.idx; used_event. */
  readonly #head = new DataView(new ArrayBuffer(4));
  readonly #event = new DataView(new ArrayBuffer(2));
  readonly #usedIdx = new DataView(new ArrayBuffer(2));
  readonly #armed = new DataView(new ArrayBuffer(2));

  constructor(dma: DmaPort, place: RingPlace) {
    this.dma = dma;
    this.size = place.size;
    this.#place = place;
    this.#table = new DescriptorTable(dma, {
      iova: place.descriptors,
      size: place.size,
      indirect: place.indirect,
    });
    this.#busy = new Uint8Array(place.size);
    this.#entries = new DataView(new ArrayBuffer(2 * Math.min(FETCH_MAX, place.size)));
    this.#elements = new DataView(new ArrayBuffer(8 * place.size));
  }

  /**
   * The next chains that the driver has made available, at most FETCH_MAX; none where there are none.
   * @throws RingError where the driver breaks the rules; DmaAbort
   */
  fetch(): ChainBuffers[] {
    if (this.#available === this.#next) this.#readAvailable();
    const pending = (this.#available - this.#next) & 0xffff;
    if (pending > this.size) {
      throw new RingError(
        `expected avail.idx at most ${this.size} ahead of ${this.#next}, got ${this.#available}`,
      );
    }
    if (pending === 0) return [];
    const count = Math.min(pending, FETCH_MAX);
    const { driver } = this.#place;
    const start = this.#next & (this.size - 1);
    const first = Math.min(count, this.size - start);
    const entries = this.#entries;
    this.#add(iovaPlus(driver, 4 + 2 * start), entries, 0, 2 * first);
    if (first < count) this.#add(iovaPlus(driver, 4), entries, 2 * first, 2 * (count - first));
    this.#table.prepare(this.#list);
    this.#readList();
    const heads: number[] = [];
    for (let n = 0; n < count; n++) {
      const head = entries.getUint16(2 * n, true);
      if (head >= this.size) {
        throw new RingError(`expected a head below ${this.size} in avail.ring, got ${head}`);
      }
      if (this.#busy[head] === 1) {
        throw new RingError(`expected a head that is not in flight in avail.ring, got ${head}`);
      }
      this.#busy[head] = 1;
      heads.push(head);
    }
    const chains = this.#table.follow(heads);
    this.#next = (this.#next + count) & 0xffff;
    return chains;
  }

  /**
   * Writes the replies, then shows the driver these chains as used.
   *
   * @param arm also ask to be told of what comes after the last entry fetched
   * @returns whether the driver wants an interrupt
   * @throws DmaAbort
   */
  publish(heads: readonly number[], lengths: readonly number[], arm: boolean): boolean {
    const { device } = this.#place;
    const count = heads.length;
    const before = this.#used;
    const start = before & (this.size - 1);
    const first = Math.min(count, this.size - start);
    const elements = this.#elements;
    for (let n = 0; n < count; n++) {
      elements.setUint32(8 * n, heads[n] as number, true);
      elements.setUint32(8 * n + 4, lengths[n] as number, true);
    }
    const { replies, dma } = this;
    replies.add(
      dma,
      iovaPlus(device, 4 + 8 * start),
      new Uint8Array(elements.buffer, 0, 8 * first),
    );
    if (first < count) {
      const rest = new Uint8Array(elements.buffer, 8 * first, 8 * (count - first));
      replies.add(dma, iovaPlus(device, 4), rest);
    }
    this.writeReplies();
    this.#used = (before + count) & 0xffff;
    // As soon as idx is out the driver may use these heads again.
    for (const head of heads) this.#busy[head] = 0;
    this.#usedIdx.setUint16(0, this.#used, true);
    this.#add(iovaPlus(device, 2), this.#usedIdx, 0, 2);
    if (arm) this.#addArming();
    this.#writeList();
    fullFence();
    return this.#wantsInterrupt(before);
  }

  /**
   * Asks to be told when there is something after what was fetched. With EVENT_IDX alone: else the
   * driver tells of everything, since used.flags stay 0.
   * @returns whether there is something already
   * @throws DmaAbort
   */
  arm(): boolean {
    if (!this.#place.eventIndex) return false;
    if (this.#addArming()) {
      this.#writeList();
      fullFence();
    }
    this.#readAvailable();
    return this.more;
  }

  /** Whether avail.idx, as it was read last, is ahead of what was fetched. */
  get more(): boolean {
    return this.#available !== this.#next;
  }

  /** @throws DmaAbort */
  writeReplies(): void {
    const abort = this.replies.write(this.dma);
    if (abort !== undefined) throw abort;
  }

  #addArming(): boolean {
    if (!this.#place.eventIndex || this.#armedAt === this.#next) return false;
    this.#armedAt = this.#next;
    this.#armed.setUint16(0, this.#next, true);
    this.#add(iovaPlus(this.#place.device, 4 + 8 * this.size), this.#armed, 0, 2);
    return true;
  }

  #readAvailable(): void {
    this.#add(this.#place.driver, this.#head, 0, 4);
    this.#readList();
    this.#available = this.#head.getUint16(2, true);
  }

  /** Section 2.7.7.2. Reads avail.idx beside it, for 4 of the list above. */
  #wantsInterrupt(before: number): boolean {
    const { driver, eventIndex } = this.#place;
    this.#add(driver, this.#head, 0, 4);
    if (eventIndex) this.#add(iovaPlus(driver, 4 + 2 * this.size), this.#event, 0, 2);
    this.#readList();
    this.#available = this.#head.getUint16(2, true);
    if (!eventIndex) return (this.#head.getUint16(0, true) & NO_INTERRUPT) === 0;
    const event = this.#event.getUint16(0, true);
    return ((this.#used - event - 1) & 0xffff) < ((this.#used - before) & 0xffff);
  }

  #add(iova: Iova, view: DataView, offset: number, length: number): void {
    this.#list.add(this.dma, iova, new Uint8Array(view.buffer, offset, length));
  }

  #readList(): void {
    const abort = this.#list.read(this.dma);
    if (abort !== undefined) throw abort;
  }

  #writeList(): void {
    const abort = this.#list.write(this.dma);
    if (abort !== undefined) throw abort;
  }
}
