import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { FreeRanges } from '../../../src/client/free-ranges.ts';

const START = 0x1000;
const END = 0x9000;

interface Taken {
  readonly at: number;
  readonly length: number;
}

const step = fc.oneof(
  fc.record({ take: fc.integer({ min: 1, max: 0x2000 }), align: fc.nat({ max: 13 }) }),
  fc.record({ give: fc.nat() }),
);

test('what is taken is aligned, inside, and nobody else’s; what is given back can be had again', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const free = new FreeRanges(START, END);
      const taken: Taken[] = [];
      const fits = (length: number, align: number) => {
        const used = taken.toSorted((a, b) => a.at - b.at);
        let at = Math.ceil(START / align) * align;
        for (const other of used) {
          if (at + length <= other.at) return true;
          at = Math.max(at, Math.ceil((other.at + other.length) / align) * align);
        }
        return at + length <= END;
      };
      for (const one of steps) {
        if ('take' in one) {
          const align = 2 ** one.align;
          const at = free.take(one.take, align);
          // It is refused only where there is really no room.
          expect(at !== undefined).toBe(fits(one.take, align));
          if (at === undefined) continue;
          expect(at % align).toBe(0);
          expect(at).toBeGreaterThanOrEqual(START);
          expect(at + one.take).toBeLessThanOrEqual(END);
          for (const other of taken) {
            expect(at + one.take <= other.at || other.at + other.length <= at).toBe(true);
          }
          taken.push({ at, length: one.take });
        } else {
          const [gone] = taken.splice(one.give % Math.max(1, taken.length), 1);
          if (gone !== undefined) free.give(gone.at, gone.length);
        }
      }
      for (const { at, length } of taken) free.give(at, length);
      expect(free.largest).toBe(END - START);
    }),
  );
});

test('nothing is free of nothing', () => {
  const free = new FreeRanges(START, START);
  expect([free.largest, free.take(1, 1)]).toEqual([0, undefined]);
});
