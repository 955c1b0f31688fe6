import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  ascii,
  list,
  nested,
  raw,
  structure,
  u8,
  u16,
  u24,
  u32,
  u64,
  u128,
} from '../../../../src/devices/nvme/admin/structure.ts';

describe('A data structure', () => {
  it('puts its fields little-endian at their offsets, and zeros elsewhere', () => {
    const shape = structure(48, {
      one: u8(0),
      two: u16(1),
      three: u24(3),
      four: u32(6),
      eight: u64(10),
      sixteen: u128(18),
      name: ascii(34, 4),
      id: raw(38, 3),
      pairs: list(nested(41, structure(2, { low: u8(0), high: u8(1) })), 3),
    });
    const bytes = shape.write({
      one: 0x01,
      two: 0x0302,
      three: 0x06_05_04,
      four: 0x0a09_0807,
      eight: 0x1211_100f_0e0d_0c0bn,
      sixteen: 0x2221_201f_1e1d_1c1b_1a19_1817_1615_1413n,
      name: 'ab',
      id: Uint8Array.of(0x27, 0x28),
      pairs: [{ low: 0x2a }, { high: 0x2d }],
    });
    expect([...bytes]).toEqual([
      ...Array.from({ length: 34 }, (_, i) => i + 1),
      ...[0x61, 0x62, 0x20, 0x20],
      ...[0x27, 0x28, 0],
      ...[0x2a, 0, 0, 0x2d, 0, 0, 0],
    ]);
  });

  it('takes every number that its field has room for, and no other', () => {
    const fields = [
      [u8, 8],
      [u16, 16],
      [u24, 24],
      [u32, 32],
    ] as const;
    fc.assert(
      fc.property(fc.constantFrom(...fields), fc.double(), fc.nat(), ([field, bits], odd, n) => {
        const shape = structure(8, { value: field(2) });
        const fits = n % 2 ** bits;
        const view = new DataView(shape.write({ value: fits }).buffer);
        expect(Number(view.getBigUint64(0, true) >> 16n)).toBe(fits);
        expect(() => shape.write({ value: 2 ** bits })).toThrow(RangeError);
        const bad = Number.isInteger(odd) ? odd + 2 ** bits : odd;
        if (bad < 0 || bad >= 2 ** bits || !Number.isInteger(bad)) {
          expect(() => shape.write({ value: bad })).toThrow(RangeError);
        }
      }),
    );
    expect(() => structure(8, { value: u64(0) }).write({ value: -1n })).toThrow(RangeError);
    expect(() => structure(16, { value: u128(0) }).write({ value: 1n << 128n })).toThrow(
      RangeError,
    );
  });

  it('takes no list, and no bytes, longer than their field', () => {
    expect(() => structure(8, { few: list(u32(0), 2) }).write({ few: [1, 2, 3] })).toThrow(
      RangeError,
    );
    expect(() => structure(8, { few: raw(0, 2) }).write({ few: new Uint8Array(3) })).toThrow(
      RangeError,
    );
  });

  it('cuts a text to its field, whatever stands behind', () => {
    const shape = structure(6, { before: u8(0), name: ascii(1, 4), after: u8(5) });
    const bytes = shape.write({ before: 1, after: 2, name: 'abcdef' });
    expect([...bytes]).toEqual([1, 0x61, 0x62, 0x63, 0x64, 2]);
  });

  it('has no fields that overlap, or that leave it', () => {
    expect(() => structure(8, { a: u32(0), b: u16(3) })).toThrow(RangeError);
    expect(() => structure(8, { a: u64(1) })).toThrow(RangeError);
    expect(() => structure(8, { a: list(u32(0), 3) })).toThrow(RangeError);
  });
});
