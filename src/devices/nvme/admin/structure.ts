/**
 * Data structures of the specification, written by their fields' own names.
 *
 *     const descriptor = structure(4, { metadataBytes: u16(0), dataSize: u8(2) });
 *     const bytes = descriptor.write({ dataSize: 9 });
 *
 * All numbers are little-endian; a field that no value is given for stays 0.
 */

/** `T` is the type of its value. */
export interface Field<T> {
  /** Bytes from the structure's start. */
  readonly offset: number;
  readonly bytes: number;
  put(view: DataView, offset: number, value: T): void;
}

type Fields = Readonly<Record<string, Field<never>>>;

export type Values<F extends Fields> = {
  readonly [K in keyof F]?: F[K] extends Field<infer T> ? T : never;
};

export interface Structure<F extends Fields> {
  readonly bytes: number;
  /** @throws RangeError where a value does not fit its field. */
  write(values: Values<F>): Uint8Array<ArrayBuffer>;
}

/** @throws RangeError where fields overlap or leave the structure. */
export function structure<F extends Fields>(bytes: number, fields: F): Structure<F> {
  const taken = new Uint8Array(bytes);
  for (const [name, field] of Object.entries(fields)) {
    const end = field.offset + field.bytes;
    if (end > bytes || taken.subarray(field.offset, end).includes(1)) {
      throw new RangeError(
        `expected ${name} in ${bytes} bytes beside the others, got it to ${end}`,
      );
    }
    taken.fill(1, field.offset, end);
  }
  return {
    bytes,
    write(values) {
      const written = new Uint8Array(bytes);
      const view = new DataView(written.buffer);
      for (const name of Object.keys(values)) {
        const field = fields[name] as Field<unknown>;
        field.put(view, field.offset, values[name]);
      }
      return written;
    },
  };
}

export function u8(offset: number): Field<number> {
  return { offset, bytes: 1, put: (view, at, value) => view.setUint8(at, exact(value, 8)) };
}

export function u16(offset: number): Field<number> {
  return { offset, bytes: 2, put: (view, at, value) => view.setUint16(at, exact(value, 16), true) };
}

export function u24(offset: number): Field<number> {
  return {
    offset,
    bytes: 3,
    put: (view, at, value) => {
      view.setUint16(at, exact(value, 24) & 0xffff, true);
      view.setUint8(at + 2, value >>> 16);
    },
  };
}

export function u32(offset: number): Field<number> {
  return { offset, bytes: 4, put: (view, at, value) => view.setUint32(at, exact(value, 32), true) };
}

export function u64(offset: number): Field<number | bigint> {
  return {
    offset,
    bytes: 8,
    put: (view, at, value) => view.setBigUint64(at, exactWide(value, 64), true),
  };
}

export function u128(offset: number): Field<number | bigint> {
  return {
    offset,
    bytes: 16,
    put: (view, at, value) => {
      const wide = exactWide(value, 128);
      view.setBigUint64(at, BigInt.asUintN(64, wide), true);
      view.setBigUint64(at + 8, wide >> 64n, true);
    },
  };
}

/**
 * Printable ASCII, left-justified and padded with spaces, or with NULs where the field is a
 * UTF-8 string. What is longer is cut, what is not printable becomes a question mark.
 */
export function ascii(offset: number, bytes: number, padding: ' ' | '\0' = ' '): Field<string> {
  return {
    offset,
    bytes,
    put: (view, at, value) => {
      const text = value
        .replaceAll(/[^ -~]/gu, '?')
        .slice(0, bytes)
        .padEnd(bytes, padding);
      for (let i = 0; i < bytes; i++) view.setUint8(at + i, text.charCodeAt(i));
    },
  };
}

/** Bytes as they are: at most as many as the field has. */
export function raw(offset: number, bytes: number): Field<Uint8Array> {
  return {
    offset,
    bytes,
    put: (view, at, value) => {
      if (value.length > bytes)
        throw new RangeError(`expected ${bytes} bytes, got ${value.length}`);
      new Uint8Array(view.buffer, view.byteOffset + at).set(value);
    },
  };
}

/** Up to `count` elements, one after another, the rest of them 0. */
export function list<T>(element: Field<T>, count: number): Field<readonly T[]> {
  const { offset, bytes } = element;
  return {
    offset,
    bytes: count * bytes,
    put: (view, at, values) => {
      if (values.length > count) {
        throw new RangeError(`expected at most ${count} elements, got ${values.length}`);
      }
      values.forEach((value, i) => {
        element.put(view, at + i * bytes, value);
      });
    },
  };
}

/** A structure in a structure. */
export function nested<F extends Fields>(offset: number, inner: Structure<F>): Field<Values<F>> {
  const whole = raw(offset, inner.bytes);
  return {
    offset,
    bytes: inner.bytes,
    put: (view, at, values) => whole.put(view, at, inner.write(values)),
  };
}

function exact(value: number, bits: number): number {
  if (!Number.isInteger(value) || value < 0 || value >= 2 ** bits) {
    throw new RangeError(`expected a whole number of ${bits} bits, got ${value}`);
  }
  return value;
}

function exactWide(value: number | bigint, bits: number): bigint {
  const wide = BigInt(value);
  if (BigInt.asUintN(bits, wide) !== wide) {
    throw new RangeError(`expected a whole number of ${bits} bits, got ${value}`);
  }
  return wide;
}
