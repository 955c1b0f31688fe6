import type { Access, Field, FieldMap } from './field.ts';
import type {
  FieldRegister,
  Handlers,
  Register,
  RegisterArray,
  RegisterOptions,
  Width,
} from './register.ts';

/** A handler with its types erased: a cell calls it with what its declaration promised. */
export type WriteHandler = (now: unknown, before: unknown, index: number) => unknown;

/** Which bits do what, as two 32-bit halves (signed, as JavaScript's bit operators give them). */
interface Halves {
  lo: number;
  hi: number;
}

/**
 * A register, or an array of them, as the bank works on it: masks and handlers ready for use, one
 * shape for all so that the access path stays monomorphic. Its value lives in the bank's storage.
 */
export class Cell {
  readonly name: string;
  /** In the BAR, of the first element; bytes. */
  readonly offset: number;
  readonly width: Width;
  readonly count: number;
  readonly stride: number;
  /** Where its value lies in the bank's storage; bytes, a multiple of 8. */
  readonly slot: number;
  /** Bits that a guest's write sets as they come (`rw` and `wo`). */
  readonly stored: Halves = { lo: 0, hi: 0 };
  readonly cleared: Halves = { lo: 0, hi: 0 };
  readonly readable: Halves = { lo: 0, hi: 0 };
  readonly readCleared: Halves = { lo: 0, hi: 0 };
  readonly reset: bigint;
  /** Sum of the access widths that reach it. */
  readonly widths: number;
  readonly zeroExtend: boolean;
  /** Read-only as a whole, or write-only as a whole. */
  readonly only: 'read' | 'write' | undefined;
  readonly fields: FieldMap | undefined;
  readonly refresh: ((index: number) => unknown) | undefined;
  readonly onRead: ((index: number) => unknown) | undefined;
  readonly onWrite: WriteHandler | undefined;
  readonly lockedWhile: (() => boolean) | undefined;
  /** Of a register with fields: what its handlers get. Set by the BAR. */
  now: unknown;
  before: unknown;
  readonly beforeWords = new Uint32Array(2);

  constructor(name: string, declared: Register | FieldRegister | RegisterArray, slot: number) {
    const register = declared.kind === 'array' ? declared.element : declared;
    this.name = name;
    this.offset = register.offset;
    this.width = register.width;
    this.count = declared.kind === 'array' ? declared.count : 1;
    this.stride = declared.kind === 'array' ? declared.stride : register.width;
    this.slot = slot;
    // What differs by the type of value is erased here: handlers are called with what they promised.
    const options = register.options as RegisterOptions<Width, unknown> & Handlers<unknown>;
    this.checkPlace();
    const all = (1n << BigInt(this.width * 8)) - 1n;
    const wide = (what: string, value: number | bigint | undefined, fallback: bigint): bigint => {
      if (value === undefined) return fallback;
      const big = BigInt(value);
      if (big < 0n || big > all) {
        throw new RangeError(
          `expected a ${what} of ${this.width * 8} bits for register '${name}', got ${value}`,
        );
      }
      return big;
    };
    let reset = wide('reset value', options.reset, 0n);
    if (register.kind === 'fields') {
      this.fields = register.fields;
      reset |= this.takeFields(register.fields, register.access);
    } else {
      this.take(register.access, wide('mask', options.mask, all));
    }
    this.reset = reset;
    this.widths = sumOfWidths(name, this.width, options.widths);
    this.zeroExtend = options.narrow === 'zero-extend';
    this.only =
      register.access === 'wo'
        ? 'write'
        : (this.stored.lo | this.stored.hi | this.cleared.lo | this.cleared.hi) === 0
          ? 'read'
          : undefined;
    this.refresh = options.refresh;
    this.onRead = options.onRead;
    this.onWrite = options.onWrite as WriteHandler | undefined;
    this.lockedWhile = options.lockedWhile;
  }

  /** Bytes it takes in the bank's storage. */
  get storage(): number {
    return this.width * this.count;
  }

  /** One past its last byte in the BAR. */
  get end(): number {
    return this.offset + (this.count - 1) * this.stride + this.width;
  }

  private checkPlace(): void {
    const { name, offset, width, count, stride } = this;
    if (!Number.isSafeInteger(offset) || offset < 0 || offset % width !== 0) {
      throw new RangeError(
        `expected register '${name}' of ${width} bytes at a multiple of ${width}, got 0x${offset.toString(16)}`,
      );
    }
    if (!Number.isInteger(count) || count < 1 || count > 65536) {
      throw new RangeError(`expected 1 to 65536 registers in array '${name}', got ${count}`);
    }
    if (!Number.isSafeInteger(stride) || stride < width || stride % width !== 0) {
      throw new RangeError(
        `expected a stride that is a multiple of ${width} bytes for array '${name}', got ${stride}`,
      );
    }
  }

  private takeFields(fields: FieldMap, whole: Access): bigint {
    let used = 0n;
    let reset = 0n;
    for (const [name, field] of Object.entries(fields)) {
      const mask = fieldMask(field);
      if (name === 'value') {
        throw new TypeError(
          `field 'value' of register '${this.name}' has the name of the whole register: rename it`,
        );
      }
      if (field.low + field.bits > this.width * 8) {
        throw new RangeError(
          `field '${name}' ends at bit ${field.low + field.bits - 1}, register '${this.name}' at bit ${this.width * 8 - 1}`,
        );
      }
      if ((used & mask) !== 0n) {
        throw new RangeError(`field '${name}' of register '${this.name}' overlaps another field`);
      }
      used |= mask;
      reset |= BigInt(field.reset) << BigInt(field.low);
      this.take(whole === 'rw' ? field.access : whole, mask);
    }
    return reset;
  }

  private take(access: Access, mask: bigint): void {
    if (access === 'rw' || access === 'wo') add(this.stored, mask);
    if (access === 'w1c') add(this.cleared, mask);
    if (access === 'rc') add(this.readCleared, mask);
    if (access !== 'wo') add(this.readable, mask);
  }
}

/** The bits of a field within its register. */
export function fieldMask(field: Field): bigint {
  return ((1n << BigInt(field.bits)) - 1n) << BigInt(field.low);
}

function add(halves: Halves, mask: bigint): void {
  halves.lo |= Number(mask & 0xffff_ffffn);
  halves.hi |= Number(mask >> 32n);
}

function sumOfWidths(name: string, own: Width, widths: readonly Width[] | undefined): number {
  if (widths === undefined) return own === 8 ? 8 | 4 : own;
  let sum = 0;
  for (const width of widths) {
    if (width > own) {
      throw new RangeError(
        `expected access widths of at most ${own} bytes for register '${name}', got ${width}`,
      );
    }
    sum |= width;
  }
  if (sum === 0) throw new RangeError(`expected an access width for register '${name}', got none`);
  return sum;
}
