/** Names of accesses against a model that looks at every byte. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { TracedRegister } from '../../../src/trace/index.ts';
import { LineBuffer } from '../../../src/trace/line-buffer.ts';
import { RegisterNames } from '../../../src/trace/register-names.ts';

const kind = fc.constantFrom<'memory' | 'read-write'>('memory', 'read-write');

/** Registers one behind the other, with gaps. */
const registers = fc
  .array(
    fc.record({
      gap: fc.nat(8),
      width: fc.integer({ min: 1, max: 8 }),
      count: fc.integer({ min: 1, max: 4 }),
      more: fc.nat(4),
      access: kind,
    }),
    { minLength: 1, maxLength: 6 },
  )
  .map((given) => {
    let offset = 0;
    return given.map(({ gap, width, count: many, more, access }, n): TracedRegister => {
      offset += gap;
      const count = access === 'memory' ? 1 : many;
      const stride = width + more;
      const one = { name: `r${n}`, offset, width, count, stride, access, fields: {} };
      offset += (count - 1) * stride + width;
      return one;
    });
  });

/** What lies at each byte: a register and its element. */
function bytesOf(all: readonly TracedRegister[]): Map<number, readonly [TracedRegister, number]> {
  const bytes = new Map<number, readonly [TracedRegister, number]>();
  for (const one of all) {
    for (let index = 0; index < one.count; index++) {
      for (let byte = 0; byte < one.width; byte++) {
        bytes.set(one.offset + index * one.stride + byte, [one, index]);
      }
    }
  }
  return bytes;
}

test('an access is named by all that it touches, and by nothing else', () => {
  fc.assert(
    fc.property(registers, fc.nat(120), fc.integer({ min: 1, max: 8 }), (all, offset, width) => {
      const names = new RegisterNames('00:05.0', [{ bar: 2, size: 4096, registers: all }]);
      const bytes = bytesOf(all);
      const touched = Array.from({ length: width }, (_, i) => bytes.get(offset + i)).filter(
        (found) => found !== undefined,
      );
      const expected = touched.map(([one, index]) => {
        if (one.access === 'memory') {
          return `${one.name}+0x${Math.max(0, offset - one.offset).toString(16)}`;
        }
        return one.count > 1 ? `${one.name}[${index}]` : one.name;
      });
      // Twice, as the second look is another way.
      for (let look = 0; look < 2; look++) {
        const { register, registers: reached } = names.of(2, offset, width);
        expect(register?.split(', ') ?? []).toEqual([...new Set(expected)]);
        expect(reached).toEqual([...new Set(touched.map(([one]) => one))]);
      }
      expect(names.of(1, offset, width).register).toBeUndefined();
    }),
  );
});

test('numbers are written as JSON has them, whatever their length', () => {
  const out = new LineBuffer();
  fc.assert(
    fc.property(
      fc.oneof(fc.maxSafeNat(), fc.nat(100), fc.constantFrom(0, 1e9 - 1, 1e9, 2 ** 53 - 1)),
      fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 0n, max: 300n })),
      fc.string({ unit: 'grapheme' }),
      (number, value, text) => {
        out.clear();
        out.decimal(number);
        out.text(text);
        out.quotedHex(Number(value & 0xffff_ffffn) | 0, Number(value >> 32n) | 0);
        expect(Buffer.from(out.bytes).toString()).toBe(`${number}${text}"0x${value.toString(16)}"`);
      },
    ),
  );
});

test('lines grow beyond any room that there was', () => {
  const out = new LineBuffer();
  const words = 'x'.repeat(50_000);
  for (let n = 0; n < 5; n++) out.text(words);
  out.encoded(Buffer.from(words));
  expect(Buffer.from(out.bytes).toString()).toBe(words.repeat(6));
});
