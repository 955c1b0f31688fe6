/**
 * Fields of a register, as a datasheet's bit table has them. A bit that no field of its register
 * names is reserved: a guest reads it as 0 and its writes to it are dropped.
 */

/**
 * What a guest may do with bits:
 * - `rw`: read and write.
 * - `ro`: read; writes are dropped.
 * - `wo`: write; reads give 0. Device code sees what was written.
 * - `w1c`: read; writing 1 clears, writing 0 keeps.
 * - `rc`: read, which clears them; writes are dropped.
 */
export type Access = 'rw' | 'ro' | 'wo' | 'w1c' | 'rc';

/** The widest field: its value is a number, exact to 53 bits. */
const FIELD_BITS_MAX = 53;

export interface Field {
  readonly kind: 'field';
  readonly access: Access;
  /** The lowest bit. */
  readonly low: number;
  /** Number of bits. */
  readonly bits: number;
  /** As a number also where it is one bit. */
  readonly reset: number;
  /** True of {@link bit}: device code sees a boolean; false of {@link bits}: a number. */
  readonly flag: boolean;
}

export interface Flag extends Field {
  readonly flag: true;
}

export interface NumberField extends Field {
  readonly flag: false;
}

/** Fields by name, as the second argument of reg32 and its like takes them. */
export type FieldMap = Readonly<Record<string, Flag | NumberField>>;

/** One bit, a boolean to device code. @throws RangeError where there is no such bit. */
export function bit(index: number, options: { readonly reset?: boolean } = {}): Flag {
  checkBits(index, index);
  const reset = options.reset ? 1 : 0;
  return { kind: 'field', access: 'rw', low: index, bits: 1, reset, flag: true };
}

/**
 * Bits `[high:low]`, both included, an unsigned number to device code.
 *
 * @throws RangeError where there are no such bits, more than 53 of them, or the reset value does
 *   not fit.
 */
export function bits(
  high: number,
  low: number,
  options: { readonly reset?: number } = {},
): NumberField {
  checkBits(high, low);
  const width = high - low + 1;
  const reset = options.reset ?? 0;
  if (!Number.isSafeInteger(reset) || reset < 0 || reset >= 2 ** width) {
    throw new RangeError(
      `expected a reset value from 0 to 0x${(2 ** width - 1).toString(16)} for bits [${high}:${low}], got ${reset}`,
    );
  }
  return { kind: 'field', access: 'rw', low, bits: width, reset, flag: false };
}

export function isField(value: unknown): value is Field {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'field';
}

function checkBits(high: number, low: number): void {
  if (!Number.isInteger(high) || !Number.isInteger(low) || low < 0 || high > 63 || high < low) {
    throw new RangeError(
      `expected bits [high:low] with 63 >= high >= low >= 0, got [${high}:${low}]`,
    );
  }
  if (high - low + 1 > FIELD_BITS_MAX) {
    throw new RangeError(
      `expected at most ${FIELD_BITS_MAX} bits in a field, got [${high}:${low}]: take the whole register instead`,
    );
  }
}
