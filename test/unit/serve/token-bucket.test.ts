import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TokenBucket } from '../../../src/serve/control/token-bucket.ts';

test('so many at once; then each after the time that is told', () => {
  let now = 0;
  const bucket = new TokenBucket(3, 100, () => now);
  expect([bucket.take(), bucket.take(), bucket.take(), bucket.take()]).toEqual([0, 0, 0, 10]);
  now = 9;
  expect(bucket.take()).toBe(1);
  now = 10;
  expect([bucket.take(), bucket.take()]).toEqual([0, 10]);
  now = 1_000_000;
  expect([bucket.take(), bucket.take(), bucket.take(), bucket.take()]).toEqual([0, 0, 0, 10]);
});

test('in no time more than the burst and what has grown back', () => {
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 50 }), { maxLength: 200 }), (pauses) => {
      let now = 0;
      let taken = 0;
      const bucket = new TokenBucket(5, 200, () => now);
      for (const pause of pauses) {
        now += pause;
        if (bucket.take() === 0) taken++;
      }
      expect(taken).toBeLessThanOrEqual(5 + now * 0.2);
    }),
  );
});
