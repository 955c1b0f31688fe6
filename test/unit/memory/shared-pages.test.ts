import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MAP_ANONYMOUS, MAP_PRIVATE, mmap, PROT_READ, PROT_WRITE } from '../../../src/ffi/libc.ts';
import { IN_CLEAR, keySlot } from '../../../src/keys/key-slot.ts';
import { DmaGate } from '../../../src/memory/dma-gate.ts';
import { gpa, MemoryError } from '../../../src/memory/guest-memory.ts';
import { ConversionOrder } from '../../../src/memory/page-conversion.ts';
import { SealedBatch } from '../../../src/memory/sealed-batch.ts';
import { SealedMemory } from '../../../src/memory/sealed-memory.ts';
import { SealedPort } from '../../../src/memory/sealed-port.ts';
import { SharedPages } from '../../../src/memory/shared-pages.ts';

const PAGE = 4096;
const PAGES = 40;

const conversion = fc
  .record({
    first: fc.nat(PAGES - 1),
    pages: fc.integer({ min: 1, max: PAGES }),
    to: fc.boolean(),
  })
  .map(({ first, pages, to }) => ({ first, pages: Math.min(pages, PAGES - first), to }));

/** Sealed RAM of which no byte is ever accessed: there is no file behind it. */
function ramOf(bytes: number) {
  const none = () => {
    throw new MemoryError('expected no access');
  };
  const gateBytes = DmaGate.bytesFor(bytes);
  const gateAt = mmap(0, gateBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  const port = new SealedPort(none, new DmaGate(gateAt, bytes), bytes);
  const batch = new SealedBatch(port, none, { onFallback: none });
  const memory = new SealedMemory(port, batch, { device: 0n, inode: 0n }, none);
  return { memory, shared: port.shared };
}

/** Of single pages: the runs of `true`, by their first and the one after their last. */
function runsOf(pages: readonly boolean[]): [number, number][] {
  const runs: [number, number][] = [];
  for (const [page, shared] of pages.entries()) {
    const last = runs.at(-1);
    if (shared && last?.[1] === page) last[1]++;
    else if (shared) runs.push([page, page + 1]);
  }
  return runs;
}

test('runs of shared pages are those that a list of single pages has, whole pages of the range alone', () => {
  fc.assert(
    fc.property(
      fc.array(conversion, { maxLength: 20 }),
      fc.nat(PAGES * PAGE),
      fc.nat(PAGES * PAGE),
      (conversions, one, other) => {
        const shared = new SharedPages(PAGES * PAGE);
        const model = new Array<boolean>(PAGES).fill(false);
        let converted = 0;
        for (const { first, pages, to } of conversions) {
          shared.set(first * PAGE, pages * PAGE, to);
          model.fill(to, first, first + pages);
          converted += pages;
        }
        expect(shared.count).toBe(model.filter(Boolean).length);
        expect(shared.conversions).toBe(converted);
        const [begin, end] = [Math.min(one, other), Math.max(one, other)];
        const inside = model.map(
          (is, page) => is && page * PAGE >= begin && (page + 1) * PAGE <= end,
        );
        const runs = [...shared.runs(begin, end - begin)];
        expect(runs).toEqual(
          runsOf(inside).map(([first, after]) => ({
            ...{ offset: first * PAGE, length: (after - first) * PAGE },
          })),
        );
        for (const [page, is] of model.entries()) {
          expect(shared.crosses(IN_CLEAR, page * PAGE + 5, 1)).toBe(!is);
          expect(shared.crosses(keySlot(1), page * PAGE + 5, 1)).toBe(is);
        }
      },
    ),
  );
});

test('by address, runs go on where regions adjoin, whatever of the file is behind them', () => {
  /** The file's pages as the guest has them: one region with its parts swapped, a hole, the rest. */
  const places = [
    { page: 0, at: 0x200, pages: 8 },
    { page: 16, at: 0x208, pages: 8 },
    { page: 8, at: 0x220, pages: 8 },
  ];
  fc.assert(
    fc.property(fc.array(conversion, { maxLength: 12 }), (conversions) => {
      const { memory, shared } = ramOf(PAGES * PAGE);
      const guest = new Array<boolean>(0x400).fill(false);
      for (const { first, pages, to } of conversions) {
        shared.set(first * PAGE, pages * PAGE, to);
        for (const { page, at, pages: many } of places) {
          for (let i = 0; i < many; i++) {
            if (page + i >= first && page + i < first + pages) guest[at + i] = to;
          }
        }
      }
      for (const { page, at, pages } of places) {
        memory.regions.add({
          ...{ gpa: gpa(at * PAGE), size: pages * PAGE, backing: page * PAGE },
          ...{ readable: true, writable: true },
        });
      }
      expect([...memory.sharedRanges()]).toEqual(
        runsOf(guest).map(([first, after]) => ({
          ...{ address: first * PAGE, bytes: (after - first) * PAGE },
        })),
      );
    }),
  );
});

test('conversions go one after the other, whatever becomes of those before, and so many may wait', async () => {
  const order = new ConversionOrder();
  const steps: string[] = [];
  const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
  const long = (name: string, end: () => void = () => {}) =>
    order.afterOthers(async () => {
      steps.push(`${name} begins`);
      await turn();
      steps.push(`${name} ends`);
      end();
    });
  const failing = long('one', () => {
    throw new MemoryError('broken');
  });
  const [one, two] = await Promise.allSettled([failing, long('two')]);
  expect([one.status, two.status]).toEqual(['rejected', 'fulfilled']);
  expect(steps).toEqual(['one begins', 'one ends', 'two begins', 'two ends']);

  const many = Array.from({ length: 64 }, (_, n) => long(String(n)));
  await expect(long('one more')).rejects.toThrow(/at most 64 conversions/);
  await Promise.all(many);
  await long('again');
});
