import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DroppedPages } from '../../../src/memory/dropped-pages.ts';

const PAGE = 4096;
const PAGES = 12;

const aRange = fc
  .record({ at: fc.nat(PAGES * PAGE - 1), bytes: fc.integer({ min: 1, max: 3 * PAGE }) })
  .map(({ at, bytes }) => ({ offset: at, length: Math.min(bytes, PAGES * PAGE - at) }));

const aStep = fc.oneof(
  fc.record({ kind: fc.constant('fill' as const), range: aRange }),
  fc.record({ kind: fc.constant('evict' as const), range: aRange }),
  fc.record({
    kind: fc.constant('direct write' as const),
    range: aRange,
    /** Pages that a vCPU brings back after the drop: before the controller has the write, or after. */
    before: fc.option(aRange),
    after: fc.option(aRange),
    /** The kernel could not drop the range, and took the write through the cache. */
    throughCache: fc.boolean(),
  }),
);

function pagesOf({ offset, length }: { offset: number; length: number }): number[] {
  const first = Math.floor(offset / PAGE);
  const last = Math.floor((offset + length - 1) / PAGE);
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

test('what is said to be out of the cache is out of it, whatever came and went', () => {
  let said = 0;
  fc.assert(
    fc.property(fc.array(aStep, { minLength: 1, maxLength: 60 }), aRange, (steps, asked) => {
      const fills = new Uint32Array(PAGES).fill(0xffff_fffd);
      const dropped = new DroppedPages(fills);
      const cached = new Set<number>();
      const fill = (range: { offset: number; length: number } | null) => {
        for (const page of range === null ? [] : pagesOf(range)) {
          if (cached.has(page)) continue;
          fills[page] = (fills[page] ?? 0) + 1;
          cached.add(page);
        }
      };
      const sumOf = (range: { offset: number; length: number }) =>
        pagesOf(range).reduce((sum, page) => (sum + (fills[page] ?? 0)) >>> 0, 0);
      for (const step of steps) {
        if (step.kind === 'fill') fill(step.range);
        if (step.kind === 'evict') for (const page of pagesOf(step.range)) cached.delete(page);
        if (step.kind === 'direct write') {
          dropped.forget(step.range.offset, step.range.length);
          const expected = sumOf(step.range);
          for (const page of pagesOf(step.range)) cached.delete(page);
          if (step.throughCache) {
            for (const page of pagesOf(step.range)) cached.add(page);
            continue;
          }
          fill(step.before);
          const done = sumOf(step.range) === expected;
          fill(step.after);
          if (done) dropped.note(step.range.offset, step.range.length, expected);
        }
      }
      if (dropped.expected(asked.offset, asked.length) === undefined) return;
      said++;
      expect(pagesOf(asked).filter((page) => cached.has(page))).toEqual([]);
      expect(dropped.expected(asked.offset, asked.length)).toBe(sumOf(asked));
    }),
    { numRuns: 3000 },
  );
  expect(said).toBeGreaterThan(50);
});

test('a page that nobody touched since it was dropped stays known, and its neighbours do not', () => {
  const fills = new Uint32Array(PAGES);
  const dropped = new DroppedPages(fills);
  expect(dropped.expected(0, PAGE)).toBeUndefined();
  dropped.note(PAGE, 100, 0);
  expect(dropped.expected(PAGE, PAGE)).toBe(0);
  expect(dropped.expected(PAGE, PAGE + 1)).toBeUndefined();
  expect(dropped.expected(PAGE - 1, 2)).toBeUndefined();
  fills[1] = 1;
  expect(dropped.expected(PAGE, 1)).toBeUndefined();
});
