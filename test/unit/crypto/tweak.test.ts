import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { multiplyByAlpha, writeUnitNumber } from '../../../src/crypto/tweak.ts';

const MASK = (1n << 128n) - 1n;

/** By the definition: one bit at a time, as IEEE Std 1619-2007 section 5.2 writes it. */
function timesAlpha(element: bigint, power: number): bigint {
  let value = element;
  for (let i = 0; i < power; i += 1) {
    value = (value << 1n) ^ (value >> 127n === 1n ? 0x87n : 0n);
    value &= MASK;
  }
  return value;
}

function words(value: bigint): Uint32Array {
  return Uint32Array.from({ length: 4 }, (_, i) =>
    Number((value >> BigInt(32 * i)) & 0xffff_ffffn),
  );
}

describe('tweak', () => {
  test('multiplication by α^j is j multiplications by α', () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: MASK }),
        fc.integer({ min: 0, max: 1100 }),
        (value, power) => {
          const got = words(value);
          multiplyByAlpha(got, 0, power);
          expect(got).toEqual(words(timesAlpha(value, power)));
        },
      ),
      {
        numRuns: 300,
        examples: [
          [MASK, 31],
          [MASK, 32],
          [1n << 127n, 1],
          [MASK, 255],
        ],
      },
    );
  });

  test('a unit number is written exactly, little endian, up to 2^53 - 1', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (unit) => {
        const got = new Uint32Array(4).fill(0xffff_ffff);
        writeUnitNumber(got, 0, unit);
        expect(got).toEqual(words(BigInt(unit)));
      }),
      {
        examples: [
          [0],
          [2 ** 32],
          [2 ** 32 - 1],
          [2 ** 40],
          [2 ** 40 - 1],
          [Number.MAX_SAFE_INTEGER],
        ],
      },
    );
  });
});
