/**
 * From the heads of descriptor chains to their buffers: virtio 1.2 section 2.7.5, with indirect
 * tables (2.7.5.3). Several chains are followed side by side, so that what they need next of guest
 * memory comes in one batch.
 */
import type { DmaPort, Iova } from '../pci/dma-port.ts';
import { iovaOf } from '../pci/iova.ts';
import { DmaList } from './dma-list.ts';
import { iovaPlus } from './iova.ts';
import { RingError } from './ring-error.ts';

export const DESCRIPTOR_BYTES = 16;
const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

/** A table of up to this many descriptors is a page: it is read whole, once for all chains. */
export const WHOLE_TABLE_MAX = 256;
/** Of a longer table this many are read at once: chains mostly lie in a row. */
const WINDOW = 8;
/** A chain that lies all over a long table gets this many windows, and then the whole table. */
const WINDOWS_MAX = 4;
/** Section 2.7.5.2: no chain is longer. */
const CHAIN_BYTES_MAX = 2 ** 32;

/** One buffer of a chain. */
export interface Segment {
  readonly iova: Iova;
  readonly length: number;
}

/** The buffers of one chain, those that the device may read first. */
export interface ChainBuffers {
  readonly head: number;
  readonly segments: Segment[];
  /** How many of the segments are device-readable. */
  readers: number;
  /** Bytes. */
  readable: number;
  writable: number;
}

/** Part of a descriptor table: descriptors `first` to `first + held`, out of `count`. */
interface Table {
  readonly iova: Iova;
  readonly count: number;
  readonly indirect: boolean;
  bytes: DataView;
  first: number;
  held: number;
}

/** A chain that is being followed. */
interface Walk {
  readonly buffers: ChainBuffers;
  table: Table;
  /** The descriptor that comes next, in its table. */
  next: number;
}

export class DescriptorTable {
  readonly #dma: DmaPort;
  readonly #iova: Iova;
  readonly #size: number;
  readonly #indirect: boolean;
  /** The whole table, where it is short. */
  readonly #whole: Uint8Array | undefined;
  readonly #list = new DmaList();
  /** Direct descriptors met in this call: chains share none, so all of them are at most the table. */
  #met = 0;
  #rounds = 0;
  /** All of a long table, where windows did not do. */
  #all: DataView | undefined;

  /** @param options.indirect whether INDIRECT_DESC was negotiated */
  constructor(
    dma: DmaPort,
    options: { readonly iova: Iova; readonly size: number; readonly indirect: boolean },
  ) {
    this.#dma = dma;
    this.#iova = options.iova;
    this.#size = options.size;
    this.#indirect = options.indirect;
    this.#whole =
      options.size <= WHOLE_TABLE_MAX ? new Uint8Array(options.size * DESCRIPTOR_BYTES) : undefined;
  }

  /** Puts the read of a short table into a batch that the caller makes before {@link follow}. */
  prepare(list: DmaList): void {
    if (this.#whole !== undefined) list.add(this.#dma, this.#iova, this.#whole);
  }

  /**
   * The buffers of the chains with these heads, each below the queue's size.
   * @throws RingError where a chain breaks the rules; DmaAbort where a table is not reachable
   */
  follow(heads: readonly number[]): ChainBuffers[] {
    this.#met = 0;
    this.#rounds = 0;
    this.#all = undefined;
    let walks = heads.map((head): Walk => {
      const buffers = { head, segments: [], readers: 0, readable: 0, writable: 0 };
      return { buffers, table: this.#direct(), next: head };
    });
    const all = walks.map(({ buffers }) => buffers);
    // After WINDOWS_MAX rounds only indirect tables are left to be fetched, one a chain.
    while (walks.length > 0) {
      this.#rounds++;
      walks = walks.filter((walk) => !this.#advance(walk));
      if (this.#list.count === 0) continue;
      const abort = this.#list.read(this.#dma);
      if (abort !== undefined) throw abort;
    }
    return all;
  }

  #direct(): Table {
    const whole = this.#whole;
    const bytes = new DataView(whole?.buffer ?? new ArrayBuffer(0));
    const held = whole === undefined ? 0 : this.#size;
    return { iova: this.#iova, count: this.#size, indirect: false, bytes, first: 0, held };
  }

  /** Follows a chain as far as its table is there; true where it has come to its end. */
  #advance(walk: Walk): boolean {
    for (;;) {
      const { table, next } = walk;
      if (next < table.first || next >= table.first + table.held) {
        this.#fetch(table, next);
        return false;
      }
      const at = (next - table.first) * DESCRIPTOR_BYTES;
      const iova = iovaOf(table.bytes.getUint32(at, true), table.bytes.getUint32(at + 4, true));
      const length = table.bytes.getUint32(at + 8, true);
      const flags = table.bytes.getUint16(at + 12, true);
      const following = table.bytes.getUint16(at + 14, true);
      if (!table.indirect && ++this.#met > this.#size) {
        throw new RingError(
          `expected chains of at most ${this.#size} descriptors together, got a loop or chains that share some (head ${walk.buffers.head})`,
        );
      }
      if ((flags & INDIRECT) !== 0) {
        walk.table = this.#indirectTable(walk, iova, length, flags);
        walk.next = 0;
        continue;
      }
      this.#addSegment(walk.buffers, iova, length, (flags & WRITE) !== 0);
      if ((flags & NEXT) === 0) return true;
      if (following >= table.count) {
        throw new RingError(
          `expected the next descriptor of head ${walk.buffers.head} below ${table.count}, got ${following}`,
        );
      }
      walk.next = following;
    }
  }

  #fetch(table: Table, next: number): void {
    if (!table.indirect && this.#rounds > WINDOWS_MAX) {
      if (this.#all === undefined) {
        const bytes = new Uint8Array(this.#size * DESCRIPTOR_BYTES);
        this.#all = new DataView(bytes.buffer);
        this.#list.add(this.#dma, this.#iova, bytes);
      }
      table.bytes = this.#all;
      table.first = 0;
      table.held = this.#size;
      return;
    }
    const held = table.indirect ? table.count : Math.min(WINDOW, table.count - next);
    const bytes = new Uint8Array(held * DESCRIPTOR_BYTES);
    table.bytes = new DataView(bytes.buffer);
    table.first = table.indirect ? 0 : next;
    table.held = held;
    this.#list.add(this.#dma, iovaPlus(table.iova, table.first * DESCRIPTOR_BYTES), bytes);
  }

  #indirectTable(walk: Walk, iova: Iova, length: number, flags: number): Table {
    const { head } = walk.buffers;
    if (walk.table.indirect) {
      throw new RingError(`expected no indirect table inside that of head ${head}, got one`);
    }
    if (!this.#indirect) {
      throw new RingError(
        `expected no indirect table (head ${head}), for INDIRECT_DESC was not negotiated`,
      );
    }
    if ((flags & NEXT) !== 0) {
      throw new RingError(`expected nothing after the indirect table of head ${head}, got NEXT`);
    }
    const count = length / DESCRIPTOR_BYTES;
    // No chain may be longer than the queue, so no table need be.
    if (!Number.isInteger(count) || count < 1 || count > this.#size) {
      throw new RingError(
        `expected an indirect table of 1 to ${this.#size} descriptors (head ${head}), got ${length} bytes`,
      );
    }
    const bytes = new DataView(new ArrayBuffer(0));
    return { iova, count, indirect: true, bytes, first: 0, held: 0 };
  }

  #addSegment(buffers: ChainBuffers, iova: Iova, length: number, writable: boolean): void {
    const { head, segments } = buffers;
    if (length === 0)
      throw new RingError(`expected buffers of a byte or more, got 0 (head ${head})`);
    if (!writable && buffers.writable > 0) {
      throw new RingError(`expected readable buffers before writable ones (head ${head})`);
    }
    if (segments.length >= this.#size) {
      throw new RingError(`expected at most ${this.#size} buffers in a chain (head ${head})`);
    }
    segments.push({ iova, length });
    if (writable) {
      buffers.writable += length;
    } else {
      buffers.readable += length;
      buffers.readers++;
    }
    if (buffers.readable + buffers.writable > CHAIN_BYTES_MAX) {
      throw new RingError(`expected at most 2^32 bytes in a chain (head ${head})`);
    }
  }
}
