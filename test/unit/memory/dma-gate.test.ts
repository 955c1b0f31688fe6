import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MAP_ANONYMOUS, MAP_PRIVATE, mmap, PROT_READ, PROT_WRITE } from '../../../src/ffi/libc.ts';
import { DmaGate, GATE_ENTRIES, GateOutcome } from '../../../src/memory/dma-gate.ts';

const GIB = 2 ** 30;
const BYTES = 8 * GIB;

function twoSides(): { device: DmaGate; controller: DmaGate } {
  const bytes = DmaGate.bytesFor(BYTES);
  const at = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  return { device: new DmaGate(at, BYTES), controller: new DmaGate(at, BYTES) };
}

test('each entry is found by its range, above 4 GiB as well, and no other range is', () => {
  const { device, controller } = twoSides();
  const page = fc.integer({ min: 0, max: BYTES / 4096 - 1 });
  fc.assert(
    fc.property(
      fc.uniqueArray(page, { minLength: 1, maxLength: GATE_ENTRIES }),
      fc.infiniteStream(fc.nat()),
      (pages, order) => {
        for (const [index, number] of pages.entries()) {
          device.ask(index, index + 1, number * 4096 + 5, 100);
        }
        device.open(pages.length);
        const indices = [...pages.keys()].sort(() => ((order.next().value ?? 0) % 2) - 0.5);
        for (const index of indices) {
          const offset = (pages[index] ?? 0) * 4096 + 5;
          expect(controller.find(offset, 100)).toBe(index);
          expect(controller.slot(index)).toBe(index + 1);
          expect(controller.find(offset, 101)).toBe(-1);
          expect(controller.find(offset + 1, 100)).toBe(-1);
          const far = offset >= 4 * GIB ? offset - 4 * GIB : offset + 4 * GIB;
          if (!pages.includes((far - 5) / 4096)) expect(controller.find(far, 100)).toBe(-1);
          controller.settle(index, GateOutcome.done);
          expect(device.outcome(index)).toBe(GateOutcome.done);
        }
        device.open(0);
        expect(controller.find((pages[0] ?? 0) * 4096 + 5, 100)).toBe(-1);
      },
    ),
    { numRuns: 30 },
  );
});

test('a fill disturbs the entries whose pages it filled, and no others', () => {
  const { device, controller } = twoSides();
  const ranges = [0, 2, 4].map((page) => ({ offset: page * 4096 + 4000, length: 200 }));
  const undisturbed = () =>
    ranges.map(({ offset, length }, index) => controller.undisturbed(index, offset, length));
  for (const [index, { offset, length }] of ranges.entries()) {
    device.ask(index, 1, offset, length);
  }
  device.open(ranges.length);
  expect(undisturbed()).toEqual([true, true, true]);
  controller.filled(3 * 4096, 1);
  expect(undisturbed()).toEqual([true, false, true]);
  controller.filled(0, 4 * 4096 + 1);
  expect(undisturbed()).toEqual([false, false, false]);
});

test('a count that no device would leave there does not lead the controller out of the page', () => {
  const { device, controller } = twoSides();
  device.ask(GATE_ENTRIES - 1, 1, 4096, 8);
  device.open(0xffff_ffff);
  expect(controller.find(4096, 8)).toBe(GATE_ENTRIES - 1);
  expect(controller.find(4096, 9)).toBe(-1);
});
