import type { BarWindow } from '../endpoint.ts';
import type { RamWindow } from './address-map.ts';
import { RegisterBank } from './bank.ts';
import { Cell, fieldMask } from './cell.ts';
import { describeRegisters, type RegisterDescription } from './description.ts';
import type { FieldMap } from './field.ts';
import type {
  FieldRegister,
  FieldValues,
  Ram,
  Register,
  RegisterArray,
  ValueOf,
  Width,
} from './register.ts';

/** A BAR's registers by the names that device code uses. */
export type Layout = Readonly<Record<string, Register | FieldRegister | RegisterArray | Ram>>;

type TypedArrayOf<W extends Width> = W extends 8
  ? BigUint64Array
  : W extends 4
    ? Uint32Array
    : W extends 2
      ? Uint16Array
      : Uint8Array;

/**
 * A BAR as device code sees it: whole registers are properties, registers with fields objects,
 * arrays typed arrays, memory a Uint8Array. Assigning sets the stored value, past read-only bits
 * and without the effects of a guest's write. @throws RangeError where a value does not fit.
 */
export type Bar<L extends Layout = Layout> = {
  -readonly [K in keyof L as L[K] extends Register ? K : never]: L[K] extends Register<infer W>
    ? ValueOf<W>
    : never;
} & {
  readonly [K in keyof L as L[K] extends Register ? never : K]: L[K] extends FieldRegister<
    infer W,
    infer F
  >
    ? FieldValues<W, F>
    : L[K] extends RegisterArray<infer W>
      ? TypedArrayOf<W>
      : Uint8Array;
} & { readonly [PLAN]: BarPlan };

/** Where the function finds what a BAR is made of; device code has no use for it. */
export const PLAN: unique symbol = Symbol('sealbus.bar');

/** An occupied range of a BAR, by the name to blame in an error. */
export interface Extent {
  readonly name: string;
  readonly offset: number;
  /** One past its last byte. */
  readonly end: number;
}

export interface BarPlan {
  readonly window: BarWindow;
  readonly bank: RegisterBank;
  /** By rising offset. */
  readonly extents: readonly Extent[];
  /** What is where, for those who watch; made anew each time. */
  describe(): readonly RegisterDescription[];
}

export interface BarOptions {
  /** A guest's access that fits no register reads `zeros` (default) or `ones`. */
  readonly unmodelled?: 'zeros' | 'ones';
  /**
   * An access wider than the registers it meets is split in halves among them (`split`, default),
   * or fits none (`refuse`).
   */
  readonly wide?: 'split' | 'refuse';
  /** Access widths that the BAR decodes at all; others read 0 and write nothing. Default all. */
  readonly decodes?: readonly Width[];
}

export interface MemoryBarOptions extends BarOptions {
  /** Default 32. One of 64 takes the next index too. */
  readonly width?: 32 | 64;
  /** Default false: reads have side effects. */
  readonly prefetchable?: boolean;
}

/**
 * A memory BAR of `size` bytes with these registers. The property that holds it gives its index:
 * `readonly bar0 = memoryBar(4096, { … })`.
 *
 * @throws RangeError or TypeError naming the register: where the size is no power of two of at
 *   least 16, or a register is misaligned, leaves the BAR, or overlaps another.
 */
export function memoryBar<const L extends Layout>(
  size: number,
  layout: L,
  options: MemoryBarOptions = {},
): Bar<L> {
  const width = options.width ?? 32;
  checkSize('memory', size, 16, width === 64 ? 2 ** 52 : 2 ** 31);
  const prefetchable = options.prefetchable ?? false;
  return build({ size, kind: 'memory', width, prefetchable }, layout, options);
}

/** An I/O BAR of 4 to 256 bytes; else as {@link memoryBar}. */
export function ioBar<const L extends Layout>(
  size: number,
  layout: L,
  options: BarOptions = {},
): Bar<L> {
  checkSize('I/O', size, 4, 256);
  return build({ size, kind: 'io', width: 32, prefetchable: false }, layout, options);
}

/** @throws RangeError naming both where two of the ranges overlap. */
export function checkOverlaps(extents: readonly Extent[]): void {
  let last: Extent | undefined;
  for (const extent of extents.toSorted((a, b) => a.offset - b.offset)) {
    if (last !== undefined && extent.offset < last.end) {
      throw new RangeError(`${range(extent)} overlaps ${range(last)}`);
    }
    last = extent;
  }
}

function range({ name, offset, end }: Extent): string {
  return `'${name}' at 0x${offset.toString(16)} to 0x${(end - 1).toString(16)}`;
}

function checkSize(kind: string, size: number, min: number, max: number): void {
  if (
    !Number.isSafeInteger(size) ||
    size < min ||
    size > max ||
    !Number.isInteger(Math.log2(size))
  ) {
    throw new RangeError(
      `expected the size of ${kind === 'I/O' ? 'an' : 'a'} ${kind} BAR to be a power of two from ${min} to ${max} bytes, got ${size}`,
    );
  }
}

function build<L extends Layout>(window: BarWindow, layout: L, options: BarOptions): Bar<L> {
  const cells: Cell[] = [];
  const memory: RamWindow[] = [];
  const extents: Extent[] = [];
  let used = 0;
  for (const [name, declared] of Object.entries(layout)) {
    if (declared.kind === 'ram') {
      const { offset, length } = declared;
      checkMemory(name, declared);
      extents.push({ name, offset, end: offset + length });
      // An end beyond the BAR is refused before that much is allocated.
      checkInside(window.size, extents.slice(-1));
      memory.push({ ...declared, name, bytes: new Uint8Array(length) });
      continue;
    }
    const cell = new Cell(name, declared, used);
    used += Math.ceil(cell.storage / 8) * 8;
    cells.push(cell);
    if (cell.stride === cell.width) {
      extents.push({ name, offset: cell.offset, end: cell.end });
    } else {
      for (let index = 0; index < cell.count; index++) {
        const offset = cell.offset + index * cell.stride;
        extents.push({ name: `${name}[${index}]`, offset, end: offset + cell.width });
      }
    }
  }
  checkInside(window.size, extents);
  checkOverlaps(extents);
  extents.sort((a, b) => a.offset - b.offset);

  const storage = new ArrayBuffer(used);
  // Not of Object.create(null), which makes objects that V8 looks up by hash.
  const face: object = {};
  for (const cell of cells) expose(face, cell, storage, isArray(layout, cell.name));
  for (const { name, bytes } of memory) {
    Object.defineProperty(face, name, { value: bytes, enumerable: true });
  }
  const bank = new RegisterBank(cells, memory, storage, {
    unmodelled: options.unmodelled ?? 'zeros',
    wide: options.wide ?? 'split',
    decodes: (options.decodes ?? [1, 2, 4, 8]).reduce((sum: number, width) => sum | width, 0),
  });
  const describe = () => describeRegisters(cells, memory);
  const plan: BarPlan = { window, bank, extents, describe };
  Object.defineProperty(face, PLAN, { value: plan });
  // A misspelt register in device code must not become a new property.
  return Object.preventExtensions(face) as Bar<L>;
}

function isArray(layout: Layout, name: string): boolean {
  return layout[name]?.kind === 'array';
}

function checkMemory(name: string, { offset, length }: Ram): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  if (!whole || offset < 0 || length < 1) {
    throw new RangeError(
      `expected memory '${name}' to have an offset of at least 0 and a length of at least 1, got ${offset} and ${length}`,
    );
  }
}

function checkInside(size: number, extents: readonly Extent[]): void {
  for (const extent of extents) {
    if (extent.end > size) {
      throw new RangeError(`${range(extent)} lies outside the BAR of 0x${size.toString(16)} bytes`);
    }
  }
}

function expose(face: object, cell: Cell, storage: ArrayBuffer, array: boolean): void {
  if (array) {
    const value = typedArray(storage, cell);
    Object.defineProperty(face, cell.name, { value, enumerable: true });
    return;
  }
  const whole = wholeValue(cell.name, cell.width, storage, cell.slot);
  if (cell.fields === undefined) {
    Object.defineProperty(face, cell.name, { ...whole, enumerable: true });
    return;
  }
  const words = new Uint32Array(storage, cell.slot, 2);
  cell.now = fieldsView(cell.name, cell.fields, words, whole);
  const { buffer } = cell.beforeWords;
  const beforeWhole = wholeValue(cell.name, cell.width, buffer, 0);
  cell.before = fieldsView(cell.name, cell.fields, cell.beforeWords, beforeWhole);
  Object.defineProperty(face, cell.name, { value: cell.now, enumerable: true });
}

function typedArray(storage: ArrayBuffer, cell: Cell): object {
  if (cell.width === 8) return new BigUint64Array(storage, cell.slot, cell.count);
  if (cell.width === 4) return new Uint32Array(storage, cell.slot, cell.count);
  if (cell.width === 2) return new Uint16Array(storage, cell.slot, cell.count);
  return new Uint8Array(storage, cell.slot, cell.count);
}

function wholeValue(
  name: string,
  width: Width,
  storage: ArrayBuffer,
  slot: number,
): { get(): number | bigint; set(value: number | bigint): void } {
  if (width === 8) {
    const value = new BigUint64Array(storage, slot, 1);
    return {
      get: () => value[0] ?? 0n,
      set: (next) => {
        if (typeof next !== 'bigint' || BigInt.asUintN(64, next) !== next) {
          throw new RangeError(`expected a bigint of 64 bits for register '${name}', got ${next}`);
        }
        value[0] = next;
      },
    };
  }
  const value = new Uint32Array(storage, slot, 1);
  const max = 2 ** (width * 8) - 1;
  const where = () => `register '${name}'`;
  return {
    get: () => value[0] ?? 0,
    set: (next) => {
      // One comparison tells an integer of 32 bits from all else.
      if (Number(next) >>> 0 !== next || next > max) checkNumber(next, max, where);
      value[0] = Number(next);
    },
  };
}

function fieldsView(
  name: string,
  fields: FieldMap,
  words: Uint32Array,
  whole: PropertyDescriptor,
): object {
  const view: object = {};
  for (const [key, field] of Object.entries(fields)) {
    const { low, bits, flag } = field;
    const where = () => `field '${key}' of register '${name}'`;
    const max = 2 ** bits - 1;
    // Of a field within one half, a shift and a mask will do; one across both takes bigints.
    const half = low >> 5 === (low + bits - 1) >> 5 ? low >> 5 : undefined;
    const shift = low & 31;
    const mask = half === undefined ? 0 : (bits === 32 ? 0xffff_ffff : 2 ** bits - 1) << shift;
    const wide = fieldMask(field);
    const read = (): number =>
      half !== undefined
        ? ((words[half] ?? 0) & mask) >>> shift
        : Number((both(words) & wide) >> BigInt(low));
    const write = (value: number): void => {
      if (half !== undefined) {
        words[half] = ((words[half] ?? 0) & ~mask) | (value << shift);
      } else {
        const next = (both(words) & ~wide) | (BigInt(value) << BigInt(low));
        words[0] = Number(next & 0xffff_ffffn);
        words[1] = Number(next >> 32n);
      }
    };
    Object.defineProperty(view, key, {
      enumerable: true,
      get: flag ? () => read() !== 0 : read,
      set: flag
        ? (value: unknown) => {
            if (typeof value !== 'boolean') {
              throw new TypeError(`expected a boolean for ${where()}, got ${String(value)}`);
            }
            write(value ? 1 : 0);
          }
        : (value: unknown) => {
            checkNumber(value, max, where);
            write(value as number);
          },
    });
  }
  Object.defineProperty(view, 'value', { ...whole, enumerable: true });
  return Object.preventExtensions(view);
}

function both(words: Uint32Array): bigint {
  return (BigInt(words[1] ?? 0) << 32n) | BigInt(words[0] ?? 0);
}

function checkNumber(value: unknown, max: number, where: () => string): void {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > max) {
    throw new RangeError(
      `expected an integer from 0 to 0x${max.toString(16)} for ${where()}, got ${String(value)}`,
    );
  }
}
