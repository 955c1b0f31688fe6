import type { Cell } from './cell.ts';
import type { Ram } from './register.ts';

/** A piece of plain memory in the BAR. */
export interface RamWindow extends Ram {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** BARs whose last register ends below this get a plain table, others a Map. */
const TABLE_BYTES_MAX = 0x1_0000;

/** What lies where in a BAR. Registers of 32 and 64 bits are found by one table look-up. */
export class AddressMap {
  readonly #table: (Cell | undefined)[] = [];
  readonly #sparse = new Map<number, Cell>();
  readonly #tableEnd: number;
  /** Registers of 8 and 16 bits, which share a table entry, by their offset. */
  readonly #narrow = new Map<number, Cell>();
  readonly #windows: readonly RamWindow[];

  constructor(cells: readonly Cell[], windows: readonly RamWindow[]) {
    this.#windows = windows;
    const end = cells.reduce((last, cell) => Math.max(last, cell.end), 0);
    this.#tableEnd = end <= TABLE_BYTES_MAX ? end : 0;
    for (let at = 0; at < this.#tableEnd; at += 4) this.#table.push(undefined);
    for (const cell of cells) this.#enter(cell);
  }

  /** The register that holds the byte at `offset`. */
  find(offset: number): Cell | undefined {
    if (offset < this.#tableEnd) {
      const cell = this.#table[offset >>> 2];
      if (cell !== undefined) return cell;
    } else if (this.#sparse.size > 0) {
      const cell = this.#sparse.get(offset - (offset & 3));
      if (cell !== undefined) return cell;
    }
    if (this.#narrow.size === 0) return undefined;
    const cell = this.#narrow.get(offset) ?? this.#narrow.get(offset - 1);
    return cell !== undefined && (cell.width === 2 || this.#narrow.has(offset)) ? cell : undefined;
  }

  /** The memory that holds the whole range. */
  window(offset: number, length: number): RamWindow | undefined {
    for (const window of this.#windows) {
      if (offset >= window.offset && offset + length <= window.offset + window.length) {
        return window;
      }
    }
    return undefined;
  }

  /** True where a register or memory lies anywhere in the range, which is at most 8 bytes. */
  touches(offset: number, length: number): boolean {
    for (let at = offset; at < offset + length; at++) {
      if (this.find(at) !== undefined || this.window(at, 1) !== undefined) return true;
    }
    return false;
  }

  #enter(cell: Cell): void {
    for (let index = 0; index < cell.count; index++) {
      const offset = cell.offset + index * cell.stride;
      if (cell.width < 4) {
        this.#narrow.set(offset, cell);
        continue;
      }
      for (let at = offset; at < offset + cell.width; at += 4) {
        if (this.#tableEnd > 0) this.#table[at >>> 2] = cell;
        else this.#sparse.set(at, cell);
      }
    }
  }
}
