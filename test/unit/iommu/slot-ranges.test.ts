import fc from 'fast-check';
import { expect, test } from 'vitest';
import { newTranslation, type Translation } from '../../../src/iommu/domain.ts';
import { Iommu } from '../../../src/iommu/iommu.ts';
import { SLOT_RANGES_END, SLOT_RANGES_MAX, SlotRanges } from '../../../src/iommu/slot-ranges.ts';
import { IN_CLEAR, keySlot } from '../../../src/keys/key-slot.ts';
import { FourSlots } from './bench-memory.ts';

const PAGE = 4096;
const PAGES = 24;
const OWN = keySlot(1);

const newRanges = () => new SlotRanges(new Iommu(new FourSlots()).hostDomain(), OWN, 3);

function translated(table: SlotRanges, iova: number): Translation {
  const into = newTranslation();
  expect(table.domain.translate(iova, into)).toBeUndefined();
  return into;
}

const change = fc.record({
  page: fc.nat(PAGES - 1),
  pages: fc.integer({ min: 1, max: PAGES }),
  slot: fc.constantFrom(OWN, keySlot(2), keySlot(4095), IN_CLEAR),
  generation: fc.constantFrom(undefined, 3, 4),
});

test('each address goes to itself, through the slot that was named for it last', () => {
  fc.assert(
    fc.property(fc.array(change, { maxLength: 20 }), (changes) => {
      const table = newRanges();
      const model = new Array(2 * PAGES).fill({ slot: OWN, generation: 3 });
      for (const { page, pages, slot, generation } of changes) {
        table.set({ start: page * PAGE, bytes: pages * PAGE, slot, generation });
        model.fill({ slot, generation }, page, page + pages);
      }
      for (const [page, expected] of model.entries()) {
        for (const iova of [page * PAGE, page * PAGE + PAGE - 1]) {
          const { address, rights, slot, generation } = translated(table, iova);
          expect([address, rights, { slot, generation }]).toEqual([iova, 'read-write', expected]);
        }
      }
      // They follow each other without gaps, and no two neighbours could be one.
      let end = 0;
      for (const [index, { start, bytes, slot, generation }] of table.ranges.entries()) {
        expect(start).toBe(end);
        end = start + bytes;
        const before = table.ranges[index - 1];
        expect([slot, generation]).not.toEqual([before?.slot, before?.generation]);
      }
      expect(end).toBe(SLOT_RANGES_END);
    }),
  );
});

test.each([
  { start: 1, bytes: PAGE },
  { start: 0, bytes: PAGE - 1 },
  { start: 0, bytes: 0 },
  { start: -PAGE, bytes: 2 * PAGE },
  { start: SLOT_RANGES_END - PAGE, bytes: 2 * PAGE },
  { start: Number.NaN, bytes: PAGE },
])('it refuses $bytes bytes at $start, and is what it was', ({ start, bytes }) => {
  const table = newRanges();
  const before = table.ranges;
  expect(() => table.set({ start, bytes, slot: keySlot(2) })).toThrow(/whole 4096-byte pages/);
  expect(table.ranges).toBe(before);
  expect(translated(table, 0).slot).toBe(OWN);
});

test('it holds a bounded number of ranges', () => {
  const table = newRanges();
  const set = (index: number) =>
    table.set({ start: (2 * index + 1) * PAGE, bytes: PAGE, slot: keySlot(2) });
  // Each adds itself and what is behind it.
  for (let index = 0; index < (SLOT_RANGES_MAX - 1) / 2 - 1; index++) set(index);
  const before = table.ranges;
  expect(() => {
    for (let index = 0; index < 2; index++) set(SLOT_RANGES_MAX + index);
  }).toThrow(`at most ${SLOT_RANGES_MAX} ranges`);
  expect(before.length).toBeLessThanOrEqual(SLOT_RANGES_MAX);
  expect(table.ranges.length).toBeLessThanOrEqual(SLOT_RANGES_MAX);
});
