import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LineSplitter } from '../../../src/serve/control/line-splitter.ts';

function linesOf(splitter: LineSplitter): string[] {
  const lines = [];
  for (let line = splitter.next(); line !== undefined; line = splitter.next()) lines.push(line);
  return lines;
}

test('lines come out as they went in, however the bytes were cut', () => {
  const line = fc.string({ unit: 'binary', maxLength: 30 }).filter((text) => !text.includes('\n'));
  fc.assert(
    fc.property(
      fc.array(line),
      fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }),
      (lines, cuts) => {
        const bytes = Buffer.from(lines.map((one) => `${one}\n`).join(''));
        const splitter = new LineSplitter(1000);
        const got = [];
        for (let at = 0, cut = 0; at < bytes.length; cut++) {
          const length = cuts[cut % cuts.length] ?? 1;
          splitter.push(bytes.subarray(at, at + length));
          at += length;
          got.push(...linesOf(splitter));
        }
        expect(got).toEqual(bytes.toString().split('\n').slice(0, -1));
      },
    ),
  );
});

test('a line may be as long as it may be, its end included, and no longer, ended or not', () => {
  const full = new LineSplitter(8);
  full.push(Buffer.from('1234567\n'));
  expect(linesOf(full)).toEqual(['1234567']);
  const over = new LineSplitter(8);
  over.push(Buffer.from('12345678\n'));
  expect(() => over.next()).toThrow(RangeError);
  const endless = new LineSplitter(8);
  endless.push(Buffer.from('12345678'));
  expect(endless.next()).toBe(undefined);
  endless.push(Buffer.from('9'));
  expect(() => endless.next()).toThrow(RangeError);
});
