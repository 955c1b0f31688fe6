import { AddressMap, type RamWindow } from './address-map.ts';
import type { Cell } from './cell.ts';

/** What a bank needs of the function it belongs to. */
export interface BankHost {
  unmodelled(offset: number, width: number, direction: 'read' | 'write', why: string): void;
  /** A handler gave back a promise. */
  started(work: PromiseLike<unknown>): void;
}

export interface BankOptions {
  /** What an access that fits no register reads: hardware gives zeros, or all ones. */
  readonly unmodelled: 'zeros' | 'ones';
  /** An access over several registers is split among them, or fits none. */
  readonly wide: 'split' | 'refuse';
  /** Sum of the access widths that the BAR decodes at all; others read 0. */
  readonly decodes: number;
}

const NO_REGISTER = 'no register is there';
const NO_WIDTH = 'the register does not take this width';
const NOT_DECODED = 'the BAR does not decode this width';

/**
 * The registers of one BAR as a guest reaches them. An aligned access of 1, 2 or 4 bytes finds its
 * register by one table look-up and allocates nothing.
 *
 * Values travel as 32-bit halves; where a half is signed, only its bits count.
 */
export class RegisterBank {
  readonly #map: AddressMap;
  readonly #windows: readonly RamWindow[];
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #atReset: Uint8Array;
  readonly #options: BankOptions;
  readonly #absent: number;
  #host: BankHost | undefined;
  /** The upper half beside the lower that a 64-bit read gives back. */
  #high = 0;

  constructor(
    cells: readonly Cell[],
    windows: readonly RamWindow[],
    storage: ArrayBuffer,
    options: BankOptions,
  ) {
    this.#options = options;
    this.#absent = options.unmodelled === 'ones' ? -1 : 0;
    this.#map = new AddressMap(cells, windows);
    this.#windows = windows;
    this.#u8 = new Uint8Array(storage);
    this.#u16 = new Uint16Array(storage);
    this.#u32 = new Uint32Array(storage);
    for (const cell of cells) this.#storeReset(cell);
    this.#atReset = this.#u8.slice();
  }

  attach(host: BankHost): void {
    this.#host = host;
  }

  /** All registers to their reset values, memory to zeros; no handler runs. */
  reset(): void {
    this.#u8.set(this.#atReset);
    for (const window of this.#windows) window.bytes.fill(0);
  }

  /** A guest's read of `into.length` bytes. */
  read(offset: number, into: Uint8Array): void {
    switch (into.length) {
      case 4:
        if ((offset & 3) === 0) {
          const value = this.#readPart(offset, 4);
          into[0] = value;
          into[1] = value >>> 8;
          into[2] = value >>> 16;
          into[3] = value >>> 24;
          return;
        }
        break;
      case 1:
        into[0] = this.#readPart(offset, 1);
        return;
      case 2:
        if ((offset & 1) === 0) {
          const value = this.#readPart(offset, 2);
          into[0] = value;
          into[1] = value >>> 8;
          return;
        }
        break;
      case 8:
        if ((offset & 7) === 0) {
          const low = this.#readWhole(offset);
          const high = this.#high;
          into[0] = low;
          into[1] = low >>> 8;
          into[2] = low >>> 16;
          into[3] = low >>> 24;
          into[4] = high;
          into[5] = high >>> 8;
          into[6] = high >>> 16;
          into[7] = high >>> 24;
          return;
        }
        break;
    }
    this.#inPieces(offset, into, 'read');
  }

  /** A guest's write of all of `from`. */
  write(offset: number, from: Uint8Array): void {
    switch (from.length) {
      case 4:
        if ((offset & 3) === 0) {
          this.#writePart(offset, 4, word(from, 0));
          return;
        }
        break;
      case 1:
        this.#writePart(offset, 1, from[0] ?? 0);
        return;
      case 2:
        if ((offset & 1) === 0) {
          this.#writePart(offset, 2, (from[0] ?? 0) | ((from[1] ?? 0) << 8));
          return;
        }
        break;
      case 8:
        if ((offset & 7) === 0) {
          this.#writeWhole(offset, word(from, 0), word(from, 4));
          return;
        }
        break;
    }
    this.#inPieces(offset, from, 'write');
  }

  #storeReset(cell: Cell): void {
    const low = Number(cell.reset & 0xffff_ffffn);
    const high = Number(cell.reset >> 32n);
    for (let index = 0; index < cell.count; index++) this.#store(cell, index, low, high);
  }

  /** An aligned read of 1, 2 or 4 bytes. */
  #readPart(offset: number, width: 1 | 2 | 4): number {
    const cell = this.#map.find(offset);
    if (
      cell !== undefined &&
      (cell.widths & width) !== 0 &&
      (this.#options.decodes & width) !== 0
    ) {
      const index = indexOf(cell, offset);
      const shift = (offset - cell.offset - index * cell.stride) * 8;
      if (shift !== 0 && cell.zeroExtend) return this.#misfit(offset, width, 'read', NO_WIDTH);
      if (cell.only === 'write') return this.#absent;
      this.#run(cell.refresh, index);
      const high = shift >= 32;
      const stored = high ? this.#loadHigh(cell, index) : this.#loadLow(cell, index);
      const value = (stored & (high ? cell.readable.hi : cell.readable.lo)) >>> (shift & 31);
      if ((cell.readCleared.lo | cell.readCleared.hi) !== 0) {
        const lanes = lanesOf(width) << (shift & 31);
        const clear = lanes & (high ? cell.readCleared.hi : cell.readCleared.lo);
        const low = this.#loadLow(cell, index);
        const top = this.#loadHigh(cell, index);
        this.#store(cell, index, high ? low : low & ~clear, high ? top & ~clear : top);
      }
      this.#run(cell.onRead, index);
      return value;
    }
    return this.#readMisfit(offset, width, cell);
  }

  #readMisfit(offset: number, width: 1 | 2 | 4, cell: Cell | undefined): number {
    if ((this.#options.decodes & width) === 0) {
      this.#misfit(offset, width, 'read', NOT_DECODED);
      return 0;
    }
    if (cell === undefined) {
      const window = this.#map.window(offset, width);
      if (window !== undefined) {
        const at = offset - window.offset;
        let value = 0;
        for (let n = 0; n < width; n++) value |= (window.bytes[at + n] ?? 0) << (8 * n);
        return value;
      }
    }
    if (width > 1 && this.#splits(cell, offset, width)) {
      const half = width === 4 ? 2 : 1;
      const low = this.#readPart(offset, half) & lanesOf(half);
      return low | (this.#readPart(offset + half, half) << (8 * half));
    }
    return this.#misfit(offset, width, 'read', cell === undefined ? NO_REGISTER : NO_WIDTH);
  }

  /** An aligned read of 8 bytes: the lower half comes back, the upper is left in `#high`. */
  #readWhole(offset: number): number {
    if ((this.#options.decodes & 8) === 0) {
      this.#misfit(offset, 8, 'read', NOT_DECODED);
      this.#high = 0;
      return 0;
    }
    const cell = this.#map.find(offset);
    if (cell !== undefined && cell.width === 8 && (cell.widths & 8) !== 0) {
      const index = indexOf(cell, offset);
      if (cell.only === 'write') {
        this.#high = this.#absent;
        return this.#absent;
      }
      this.#run(cell.refresh, index);
      const low = this.#loadLow(cell, index);
      const high = this.#loadHigh(cell, index);
      if ((cell.readCleared.lo | cell.readCleared.hi) !== 0) {
        this.#store(cell, index, low & ~cell.readCleared.lo, high & ~cell.readCleared.hi);
      }
      this.#run(cell.onRead, index);
      this.#high = high & cell.readable.hi;
      return low & cell.readable.lo;
    }
    const window = cell === undefined ? this.#map.window(offset, 8) : undefined;
    if (window !== undefined || this.#splits(cell, offset, 8)) {
      const low = this.#readPart(offset, 4);
      this.#high = this.#readPart(offset + 4, 4);
      return low;
    }
    this.#high = this.#absent;
    return this.#misfit(offset, 8, 'read', cell === undefined ? NO_REGISTER : NO_WIDTH);
  }

  /** An aligned write of 1, 2 or 4 bytes; bits of `value` above the width do not count. */
  #writePart(offset: number, width: 1 | 2 | 4, value: number): void {
    const cell = this.#map.find(offset);
    if (
      cell !== undefined &&
      (cell.widths & width) !== 0 &&
      (this.#options.decodes & width) !== 0
    ) {
      const index = indexOf(cell, offset);
      const shift = (offset - cell.offset - index * cell.stride) * 8;
      const lanes = lanesOf(width);
      if (cell.zeroExtend) {
        if (shift !== 0) this.#misfit(offset, width, 'write', NO_WIDTH);
        else this.#assign(cell, index, value & lanes, 0, -1, -1);
      } else if (shift >= 32) {
        this.#assign(cell, index, 0, value << (shift - 32), 0, lanes << (shift - 32));
      } else {
        this.#assign(cell, index, value << shift, 0, lanes << shift, 0);
      }
      return;
    }
    if ((this.#options.decodes & width) === 0) {
      this.#misfit(offset, width, 'write', NOT_DECODED);
      return;
    }
    if (cell === undefined) {
      const window = this.#map.window(offset, width);
      if (window !== undefined) {
        const at = offset - window.offset;
        for (let n = 0; n < width; n++) window.bytes[at + n] = value >>> (8 * n);
        return;
      }
    }
    if (width > 1 && this.#splits(cell, offset, width)) {
      const half = width === 4 ? 2 : 1;
      this.#writePart(offset, half, value);
      this.#writePart(offset + half, half, value >>> (8 * half));
      return;
    }
    this.#misfit(offset, width, 'write', cell === undefined ? NO_REGISTER : NO_WIDTH);
  }

  /** An aligned write of 8 bytes. */
  #writeWhole(offset: number, low: number, high: number): void {
    const cell = this.#map.find(offset);
    if ((this.#options.decodes & 8) === 0) {
      this.#misfit(offset, 8, 'write', NOT_DECODED);
      return;
    }
    if (cell !== undefined && cell.width === 8 && (cell.widths & 8) !== 0) {
      this.#assign(cell, indexOf(cell, offset), low, high, -1, -1);
      return;
    }
    const window = cell === undefined ? this.#map.window(offset, 8) : undefined;
    if (window !== undefined || this.#splits(cell, offset, 8)) {
      this.#writePart(offset, 4, low);
      this.#writePart(offset + 4, 4, high);
      return;
    }
    this.#misfit(offset, 8, 'write', cell === undefined ? NO_REGISTER : NO_WIDTH);
  }

  /** A guest's write to the bits of `lanes`, with its side effects. */
  #assign(
    cell: Cell,
    index: number,
    low: number,
    high: number,
    lanesLow: number,
    lanesHigh: number,
  ): void {
    if (cell.only === 'read' || cell.lockedWhile?.() === true) return;
    const beforeLow = this.#loadLow(cell, index);
    const storedLow = cell.stored.lo & lanesLow;
    const nextLow =
      ((beforeLow & ~storedLow) | (low & storedLow)) & ~(low & cell.cleared.lo & lanesLow);
    let beforeHigh = 0;
    let nextHigh = 0;
    if (cell.width === 8) {
      beforeHigh = this.#loadHigh(cell, index);
      const storedHigh = cell.stored.hi & lanesHigh;
      nextHigh =
        ((beforeHigh & ~storedHigh) | (high & storedHigh)) & ~(high & cell.cleared.hi & lanesHigh);
    }
    this.#store(cell, index, nextLow, nextHigh);
    if (cell.onWrite === undefined) return;
    let result: unknown;
    if (cell.fields !== undefined) {
      cell.beforeWords[0] = beforeLow;
      cell.beforeWords[1] = beforeHigh;
      result = cell.onWrite(cell.now, cell.before, index);
    } else if (cell.width === 8) {
      result = cell.onWrite(big(nextLow, nextHigh), big(beforeLow, beforeHigh), index);
    } else {
      result = cell.onWrite(nextLow >>> 0, beforeLow, index);
    }
    if (isThenable(result)) this.#host?.started(result);
  }

  #run(handler: ((index: number) => unknown) | undefined, index: number): void {
    if (handler === undefined) return;
    const result = handler(index);
    if (isThenable(result)) this.#host?.started(result);
  }

  #loadLow(cell: Cell, index: number): number {
    if (cell.width === 4) return this.#u32[(cell.slot >>> 2) + index] ?? 0;
    if (cell.width === 8) return this.#u32[(cell.slot >>> 2) + 2 * index] ?? 0;
    if (cell.width === 2) return this.#u16[(cell.slot >>> 1) + index] ?? 0;
    return this.#u8[cell.slot + index] ?? 0;
  }

  #loadHigh(cell: Cell, index: number): number {
    return cell.width === 8 ? (this.#u32[(cell.slot >>> 2) + 2 * index + 1] ?? 0) : 0;
  }

  #store(cell: Cell, index: number, low: number, high: number): void {
    if (cell.width === 4) {
      this.#u32[(cell.slot >>> 2) + index] = low;
    } else if (cell.width === 8) {
      this.#u32[(cell.slot >>> 2) + 2 * index] = low;
      this.#u32[(cell.slot >>> 2) + 2 * index + 1] = high;
    } else if (cell.width === 2) {
      this.#u16[(cell.slot >>> 1) + index] = low;
    } else {
      this.#u8[cell.slot + index] = low;
    }
  }

  /** True where an access that fits no register as a whole is to be split in halves. */
  #splits(cell: Cell | undefined, offset: number, width: number): boolean {
    if (this.#options.wide === 'refuse') return false;
    if (cell === undefined) return this.#map.touches(offset, width);
    return cell.width < width || (cell.width === width && (cell.widths & (width - 1)) !== 0);
  }

  #misfit(offset: number, width: number, direction: 'read' | 'write', why: string): number {
    this.#host?.unmodelled(offset, width, direction, why);
    return this.#absent;
  }

  /** Any length, any alignment: naturally aligned pieces in rising order, as a bridge splits it. */
  #inPieces(offset: number, bytes: Uint8Array, direction: 'read' | 'write'): void {
    let at = 0;
    while (at < bytes.length) {
      let width = 8;
      while (width > 1 && ((offset + at) % width !== 0 || at + width > bytes.length)) width >>= 1;
      const piece = bytes.subarray(at, at + width);
      if (direction === 'read') this.read(offset + at, piece);
      else this.write(offset + at, piece);
      at += width;
    }
  }
}

function indexOf(cell: Cell, offset: number): number {
  return cell.count === 1 ? 0 : Math.floor((offset - cell.offset) / cell.stride);
}

function lanesOf(width: number): number {
  return width === 4 ? -1 : width === 2 ? 0xffff : 0xff;
}

function word(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] ?? 0) |
    ((bytes[at + 1] ?? 0) << 8) |
    ((bytes[at + 2] ?? 0) << 16) |
    ((bytes[at + 3] ?? 0) << 24)
  );
}

function big(low: number, high: number): bigint {
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value;
}
