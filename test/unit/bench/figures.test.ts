import fc from 'fast-check';
import { expect, test } from 'vitest';
import { compare, interleaved, median, meets, quantile } from '../../../bench/figures.ts';

const numbers = fc.array(fc.double({ min: 1, max: 1e9, noNaN: true }), { minLength: 1 });

test('a median has half of the values on each side, and leaves its input alone', () => {
  fc.assert(
    fc.property(numbers, (values) => {
      const before = [...values];
      const middle = median(values);
      expect(values).toEqual(before);
      expect(values).toContain(middle);
      const half = values.length / 2;
      expect(values.filter((value) => value < middle).length).toBeLessThanOrEqual(half);
      expect(values.filter((value) => value > middle).length).toBeLessThanOrEqual(half);
    }),
  );
});

test('a quantile never falls as its share rises, and ends at the largest value', () => {
  fc.assert(
    fc.property(numbers, fc.double({ min: 0, max: 1, noNaN: true }), (values, share) => {
      expect(quantile(values, share)).toBeLessThanOrEqual(quantile(values, 1));
      expect(quantile(values, 1)).toBe(Math.max(...values));
      expect(quantile(values, 0)).toBe(Math.min(...values));
    }),
  );
});

test('rounds are interleaved, and the first is not kept', async () => {
  const calls: string[] = [];
  let count = 0;
  const run = (name: string) => () => {
    calls.push(name);
    return count++;
  };
  const values = await interleaved(2, { a: run('a'), b: run('b') });
  expect(calls.join('')).toBe('ababab');
  expect(values).toEqual({ a: [2, 4], b: [3, 5] });
});

test('a bar on the line is met; beyond it, missed', () => {
  expect(meets(1.3, { atMost: 1.3 })).toBe(true);
  expect(meets(1.31, { atMost: 1.3 })).toBe(false);
  expect(meets(0.75, { atLeast: 0.75 })).toBe(true);
  expect(meets(0.74, { atLeast: 0.75 })).toBe(false);
});

test('rounding for people never lets a missed bar pass', () => {
  const { ratio, met } = compare(1.30004, 1, { peer: 'p', bar: { atMost: 1.3 }, rounds: 1 });
  expect(ratio).toBe(1.3);
  expect(met).toBe(false);
});

test('a figure that is nothing gives no ratio', () => {
  for (const [ours, theirs] of [
    [0, 1],
    [1, 0],
    [Number.NaN, 1],
    [1, Number.POSITIVE_INFINITY],
  ] as const) {
    expect(() => compare(ours, theirs, { peer: 'p', rounds: 1 })).toThrow(/positive figures/);
  }
});
