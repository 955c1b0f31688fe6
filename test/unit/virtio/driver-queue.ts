import { Common, EVENT_IDX, INDIRECT } from './virtio-numbers.ts';

/**
 * The driver's side of a split virtqueue (virtio 1.2 section 2.7), after the specification and apart
 * from the device's: what the tests hold the device against.
 */

/** What a driver has of a device: memory that both see, its registers, its doorbell. */
export interface DriverLink {
  readonly memory: Uint8Array;
  /** Of BAR 0. */
  write(offset: number, value: number, width?: 2 | 4): void;
  notify(queue: number): void;
}

const word = new Int32Array(new SharedArrayBuffer(4));
/** A driver's full barrier: a locked instruction. */
const fence = () => Atomics.add(word, 0, 1);

const NEXT = 1;
const WRITE = 2;
const INDIRECT_FLAG = 4;

export interface Buffer {
  readonly address: number;
  readonly length: number;
}

/** A request that is under way. */
export interface Pending {
  readonly head: number;
  readonly descriptors: readonly number[];
  readonly readable: readonly Buffer[];
  readonly writable: readonly Buffer[];
  /** Of the request, from 0. */
  readonly serial: number;
}

export interface QueueOptions {
  readonly size: number;
  readonly features: readonly number[];
  /** Where the rings lie: descriptors, available, used, and buffers behind. */
  readonly base?: number;
  readonly index?: number;
  readonly vector?: number;
  /** Chains lie all over the table, not in a row. */
  readonly scattered?: boolean;
}

export class DriverQueue {
  readonly size: number;
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
  /** The first byte behind the rings. */
  readonly end: number;
  readonly index: number;
  readonly pending = new Map<number, Pending>();
  readonly #link: DriverLink;
  readonly #memory: DataView;
  readonly #eventIndex: boolean;
  readonly #indirect: boolean;
  readonly #free: number[];
  #availIdx = 0;
  /** avail idx at the last look whether to notify. */
  #told = 0;
  #usedIdx = 0;
  #serial = 0;

  constructor(link: DriverLink, options: QueueOptions) {
    const { size, features, base = 0, index = 0 } = options;
    this.size = size;
    this.index = index;
    this.descriptors = base;
    this.available = this.descriptors + 16 * size;
    this.used = Math.ceil((this.available + 6 + 2 * size) / 4) * 4;
    this.end = this.used + 6 + 8 * size;
    this.#link = link;
    this.#memory = new DataView(link.memory.buffer, link.memory.byteOffset, link.memory.length);
    this.#eventIndex = features.includes(EVENT_IDX);
    this.#indirect = features.includes(INDIRECT);
    this.#free = Array.from({ length: size }, (_, n) =>
      options.scattered === true ? (n * 37) % size : n,
    );
    link.memory.fill(0, base, this.end);
    link.write(Common.queueSelect, index, 2);
    link.write(Common.queueSize, size, 2);
    link.write(Common.queueVector, options.vector ?? index, 2);
    // By halves, as section 4.1.3.1 has drivers do.
    for (const [register, address] of [
      [Common.queueDesc, this.descriptors],
      [Common.queueDriver, this.available],
      [Common.queueDevice, this.used],
    ] as const) {
      link.write(register, address);
      link.write(register + 4, 0);
    }
    link.write(Common.queueEnable, 1, 2);
  }

  get free(): number {
    return this.#free.length;
  }

  /** Whether an indirect table may be used. */
  get indirect(): boolean {
    return this.#indirect;
  }

  descriptor(table: number, n: number, buffer: Buffer, flags: number, next = 0): void {
    const at = table + 16 * n;
    this.#memory.setBigUint64(at, BigInt(buffer.address), true);
    this.#memory.setUint32(at + 8, buffer.length, true);
    this.#memory.setUint16(at + 12, flags, true);
    this.#memory.setUint16(at + 14, next, true);
  }

  /** Makes a chain available, without telling. @param table where an indirect table may lie */
  add(readable: readonly Buffer[], writable: readonly Buffer[], table?: number): Pending {
    const buffers = [
      ...readable.map((buffer) => ({ buffer, flags: 0 })),
      ...writable.map((buffer) => ({ buffer, flags: WRITE })),
    ];
    const direct = table === undefined ? buffers.length : 1;
    const descriptors = this.#free.splice(0, direct);
    const [head] = descriptors;
    if (head === undefined || descriptors.length < direct) throw new Error('the ring is full');
    for (const [n, { buffer, flags }] of buffers.entries()) {
      const last = n === buffers.length - 1;
      const own = table === undefined ? (descriptors[n] as number) : n;
      const next = last ? 0 : table === undefined ? (descriptors[n + 1] as number) : n + 1;
      this.descriptor(table ?? this.descriptors, own, buffer, flags | (last ? 0 : NEXT), next);
    }
    if (table !== undefined) {
      const length = 16 * buffers.length;
      this.descriptor(this.descriptors, head, { address: table, length }, INDIRECT_FLAG);
    }
    const pending = { head, descriptors, readable, writable, serial: this.#serial++ };
    this.pending.set(head, pending);
    this.offer(head);
    return pending;
  }

  /** Puts a head into the available ring. */
  offer(head: number): void {
    this.#memory.setUint16(this.available + 4 + 2 * (this.#availIdx % this.size), head, true);
    this.#availIdx = (this.#availIdx + 1) % 65536;
    this.#memory.setUint16(this.available + 2, this.#availIdx, true);
  }

  /** Section 2.7.10: whether the device wants to be told of what was added since the last call. */
  mustNotify(): boolean {
    const before = this.#told;
    this.#told = this.#availIdx;
    if (before === this.#availIdx) return false;
    fence();
    if (!this.#eventIndex) return (this.#memory.getUint16(this.used, true) & 1) === 0;
    const event = this.#memory.getUint16(this.used + 4 + 8 * this.size, true);
    return (this.#availIdx - event - 1 + 65536) % 65536 < (this.#availIdx - before + 65536) % 65536;
  }

  kick(): void {
    if (this.mustNotify()) this.#link.notify(this.index);
  }

  /** What has come back since the last call; its descriptors are free again. */
  reap(): { readonly pending: Pending; readonly length: number }[] {
    const done = [];
    const now = this.#memory.getUint16(this.used + 2, true);
    for (let steps = 0; this.#usedIdx !== now; steps++) {
      if (steps > this.size) throw new Error(`used idx ran ahead to ${now}`);
      const at = this.used + 4 + 8 * (this.#usedIdx % this.size);
      const head = this.#memory.getUint32(at, true);
      const pending = this.pending.get(head);
      if (pending === undefined) throw new Error(`head ${head} came back and was not under way`);
      this.pending.delete(head);
      this.#free.push(...pending.descriptors);
      done.push({ pending, length: this.#memory.getUint32(at + 4, true) });
      this.#usedIdx = (this.#usedIdx + 1) % 65536;
    }
    return done;
  }

  /** Asks for an interrupt at the next used buffer; answers whether there is one already. */
  enableInterrupts(): boolean {
    if (this.#eventIndex) {
      this.#memory.setUint16(this.available + 4 + 2 * this.size, this.#usedIdx, true);
    } else {
      this.#memory.setUint16(this.available, 0, true);
    }
    fence();
    return this.#memory.getUint16(this.used + 2, true) !== this.#usedIdx;
  }

  disableInterrupts(): void {
    if (this.#eventIndex) {
      const far = (this.#usedIdx + 32768) % 65536;
      this.#memory.setUint16(this.available + 4 + 2 * this.size, far, true);
    } else {
      this.#memory.setUint16(this.available, 1, true);
    }
  }
}
