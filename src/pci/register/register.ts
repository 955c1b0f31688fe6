import { type Access, type Field, type FieldMap, type Flag, isField } from './field.ts';

/**
 * What a BAR's layout is written with: registers of 8 to 64 bits, arrays of them, plain memory.
 * These are descriptions; memoryBar() makes the live thing out of them.
 */

/** Bytes of a register or of an access. */
export type Width = 1 | 2 | 4 | 8;

/** What device code sees of a whole register: a bigint where it has 64 bits. */
export type ValueOf<W extends Width> = W extends 8 ? bigint : number;

/** What device code sees of a register with fields; `value` is the whole of it. */
export type FieldValues<W extends Width, F extends FieldMap> = {
  -readonly [K in keyof F]: F[K] extends Flag ? boolean : number;
} & { value: ValueOf<W> };

/**
 * What happens beside storing. Handlers give nothing back, so that they may start asynchronous
 * work (`onWrite: (r) => r.go && this.run()`); where a promise comes back and is rejected, the
 * function deals with it like with a throw. `index` is the element of an array, else 0.
 */
export interface Handlers<V> {
  /**
   * After a guest's write, once its value is stored. `before` is what was there; of a register with
   * fields it is a view that holds until the handler returns.
   */
  readonly onWrite?: (now: V, before: V, index: number) => void;
  /** Before a guest's read: bring the stored value up to date. */
  readonly refresh?: (index: number) => void;
  /** After a guest's read took its value: what reading sets off. */
  readonly onRead?: (index: number) => void;
  /**
   * Guest writes are dropped while this gives true, as registers of a busy engine do. Write
   * `(): boolean =>` where it looks into the BAR that is being declared.
   */
  readonly lockedWhile?: () => boolean;
}

export interface RegisterOptions<W extends Width, V> extends Handlers<V> {
  /** The whole register's value after reset; fields carry their own. Default 0. */
  readonly reset?: ValueOf<W>;
  /** The bits that exist, of a register without fields; others are reserved. Default all. */
  readonly mask?: ValueOf<W>;
  /**
   * Access widths in bytes that reach it. Default: its own; of 64 bits also each 32-bit half.
   */
  readonly widths?: readonly Width[];
  /**
   * What a write narrower than the register does: `merge` (default) alters the bytes written,
   * wherever in the register; `zero-extend` is accepted at the register's own address alone and
   * clears the rest.
   */
  readonly narrow?: 'merge' | 'zero-extend';
}

export interface Register<W extends Width = Width> {
  readonly kind: 'register';
  readonly offset: number;
  readonly width: W;
  readonly access: Access;
  /** Handlers with their type of value erased, so that all registers have one type. */
  readonly options: RegisterOptions<W, never>;
}

export interface FieldRegister<W extends Width = Width, F extends FieldMap = FieldMap> {
  readonly kind: 'fields';
  readonly offset: number;
  readonly width: W;
  readonly access: Access;
  readonly fields: F;
  readonly options: RegisterOptions<W, never>;
}

export interface RegisterArray<W extends Width = Width> {
  readonly kind: 'array';
  readonly element: Register<W>;
  readonly count: number;
  /** Bytes from one element to the next. */
  readonly stride: number;
}

export interface Ram {
  readonly kind: 'ram';
  readonly offset: number;
  readonly length: number;
}

/** Declares a register: `reg32(offset, { field: bit(0), … }, { onWrite })` or without fields. */
export interface Declare<W extends Width> {
  (offset: number, options?: RegisterOptions<W, ValueOf<W>>): Register<W>;
  // Nothing is inferred from the handlers: only so may they name `this.bar0` while it is declared.
  <const F extends FieldMap>(
    offset: number,
    fields: F,
    options?: NoInfer<RegisterOptions<W, FieldValues<W, F>>>,
  ): FieldRegister<W, F>;
}

function declare<W extends Width>(width: W, access: Access): Declare<W> {
  function register(offset: number, first?: object, second?: object): unknown {
    if (second === undefined && !isFieldMap(first)) {
      return { kind: 'register', offset, width, access, options: first ?? {} };
    }
    return { kind: 'fields', offset, width, access, fields: first, options: second ?? {} };
  }
  return register as Declare<W>;
}

function isFieldMap(value: object | undefined): boolean {
  const entries = Object.values(value ?? {});
  return entries.length > 0 && entries.every(isField);
}

/** Read-write. */
export const reg8 = declare(1, 'rw');
export const reg16 = declare(2, 'rw');
export const reg32 = declare(4, 'rw');
export const reg64 = declare(8, 'rw');
/** Read-only: all of it, whatever its fields say. */
export const ro8 = declare(1, 'ro');
export const ro16 = declare(2, 'ro');
export const ro32 = declare(4, 'ro');
export const ro64 = declare(8, 'ro');
/** Write-only: guests read 0, or the BAR's unmodelled value where it says so. */
export const wo8 = declare(1, 'wo');
export const wo16 = declare(2, 'wo');
export const wo32 = declare(4, 'wo');
export const wo64 = declare(8, 'wo');
/** Write 1 to clear. */
export const w1c8 = declare(1, 'w1c');
export const w1c16 = declare(2, 'w1c');
export const w1c32 = declare(4, 'w1c');
export const w1c64 = declare(8, 'w1c');

type Declared = Field | Register | FieldRegister;

/** The same field or register, read-only to guests. */
export function ro<T extends Declared>(declared: T): T {
  return { ...declared, access: 'ro' };
}

/** The same field or register, write-only to guests. */
export function wo<T extends Declared>(declared: T): T {
  return { ...declared, access: 'wo' };
}

/** The same field or register; a guest's 1 clears. */
export function w1c<T extends Declared>(declared: T): T {
  return { ...declared, access: 'w1c' };
}

/** The same field or register; a guest's read clears. */
export function rc<T extends Declared>(declared: T): T {
  return { ...declared, access: 'rc' };
}

/**
 * Registers of one kind in a row, such as doorbells: `regArray(64, reg32(0x1000, { onWrite }))`.
 * Device code sees a typed array (`this.bar0.doorbells[3]`), which truncates what it is assigned.
 *
 * @param options.stride bytes from one to the next; default the register's width.
 */
export function regArray<W extends Width>(
  count: number,
  element: Register<W>,
  options: { readonly stride?: number } = {},
): RegisterArray<W> {
  return { kind: 'array', element, count, stride: options.stride ?? element.width };
}

/** Plain memory inside a BAR, any access width; device code sees it as a Uint8Array. */
export function ram(offset: number, length: number): Ram {
  return { kind: 'ram', offset, length };
}
