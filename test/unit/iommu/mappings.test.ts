/** The domain that a guest maps into, held against the plainest model of it there is. */

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { newTranslation, type Rights } from '../../../src/iommu/domain.ts';
import { Iommu } from '../../../src/iommu/iommu.ts';
import { MappedDomain } from '../../../src/iommu/mapped-domain.ts';
import type { Mapping } from '../../../src/iommu/mapping-tree.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { DmaAbort } from '../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { FourSlots, nativeMemory } from './bench-memory.ts';

const PAGE = 4096;
const RID = parseRequesterId('00:05.0');

type Request =
  | { readonly kind: 'map'; readonly page: number; readonly pages: number; readonly frame: number }
  | { readonly kind: 'unmap'; readonly page: number; readonly pages: number };

/** Few pages, so that requests meet. */
const PAGES = 24;
const page = fc.nat(PAGES - 1);
const pages = fc.integer({ min: 1, max: 6 });
const request: fc.Arbitrary<Request> = fc.oneof(
  fc.record({ kind: fc.constant('map' as const), page, pages, frame: fc.nat(PAGES) }),
  fc.record({ kind: fc.constant('unmap' as const), page, pages: fc.nat(PAGES - 1) }),
);

/** Mappings in a list, and a page at a time. */
class Model {
  mappings: { page: number; last: number; frame: number }[] = [];

  map(page: number, pages: number, frame: number): boolean {
    const last = page + pages - 1;
    if (this.mappings.some((other) => other.page <= last && other.last >= page)) return false;
    this.mappings.push({ page, last, frame });
    return true;
  }

  unmap(page: number, last: number): number | 'would-split' {
    const met = this.mappings.filter((other) => other.page <= last && other.last >= page);
    if (met.some((other) => other.page < page || other.last > last)) return 'would-split';
    this.mappings = this.mappings.filter((other) => !met.includes(other));
    return met.length;
  }

  frameOf(page: number): number | undefined {
    const found = this.mappings.find((other) => other.page <= page && other.last >= page);
    return found === undefined ? undefined : found.frame + page - found.page;
  }
}

function mapping(page: number, pages: number, frame: number, rights: Rights = 'read-write') {
  const [start, end] = [page * PAGE, (page + pages) * PAGE - 1];
  return { start, end, address: gpa(frame * PAGE), rights, mmio: false } satisfies Mapping;
}

const lastOf = ({ page, pages }: { page: number; pages: number }) => page + pages;

test('after any requests it says of every page what a list of mappings says', {
  timeout: 30_000,
}, () => {
  const into = newTranslation();
  fc.assert(
    fc.property(fc.array(request, { maxLength: 60 }), (requests) => {
      const domain = new MappedDomain(1);
      const model = new Model();
      for (const asked of requests) {
        if (asked.kind === 'map') {
          const { page, pages, frame } = asked;
          expect(domain.map(mapping(page, pages, frame))).toBe(model.map(page, pages, frame));
        } else {
          const last = lastOf(asked);
          const answer = domain.unmap(asked.page * PAGE, (last + 1) * PAGE - 1);
          expect(answer).toBe(model.unmap(asked.page, last));
        }
        const order = model.mappings.toSorted((a, b) => a.page - b.page);
        expect([...domain.mappings()].map(({ start }) => start / PAGE)).toEqual(
          order.map((each) => each.page),
        );
        expect(domain.size).toBe(model.mappings.length);
      }
      for (let at = 0; at < PAGES + 8; at++) {
        const frame = model.frameOf(at);
        const fault = domain.translate(at * PAGE + 17, into);
        expect(fault).toBe(frame === undefined ? 'unmapped' : undefined);
        if (frame !== undefined) expect(into.address).toBe(frame * PAGE + 17);
      }
    }),
    { numRuns: 200 },
  );
});

/** The examples of virtio 1.2 §5.13.6.6, a page for each of their addresses. */
test.each<[string, [number, number][], [number, number], number | 'would-split', number]>([
  ['(1) nothing mapped', [], [0, 4], 0, 0],
  ['(2) one, exactly', [[0, 9]], [0, 9], 1, 0],
  [
    '(3) two neighbours',
    [
      [0, 4],
      [5, 9],
    ],
    [0, 9],
    2,
    0,
  ],
  ['(4) half of one', [[0, 9]], [0, 4], 'would-split', 1],
  [
    '(5) one of two neighbours',
    [
      [0, 4],
      [5, 9],
    ],
    [0, 4],
    1,
    1,
  ],
  ['(6) one, and what is not mapped', [[0, 4]], [0, 9], 1, 0],
  [
    '(7) two with a gap',
    [
      [0, 4],
      [10, 14],
    ],
    [0, 14],
    2,
    0,
  ],
  ['the last half of one', [[0, 9]], [5, 9], 'would-split', 1],
  ['the middle of one', [[0, 9]], [3, 5], 'would-split', 1],
  [
    'one, and half of the next',
    [
      [0, 4],
      [5, 9],
    ],
    [0, 7],
    'would-split',
    2,
  ],
])('unmap: %s', (_name, mapped, [first, last], answer, left) => {
  const domain = new MappedDomain(1);
  for (const [from, to] of mapped) domain.map(mapping(from, to - from + 1, 100 + from));
  expect(domain.unmap(first * PAGE, (last + 1) * PAGE - 1)).toBe(answer);
  expect(domain.size).toBe(left);
});

test('100,000 mappings made in order, looked up, and removed at once', () => {
  const domain = new MappedDomain(1);
  const count = 100_000;
  for (let i = 0; i < count; i++) domain.map(mapping(i, 1, count - i));
  const into = newTranslation();
  for (let i = 0; i < count; i += 997) {
    expect(domain.translate(i * PAGE, into)).toBe(undefined);
    expect(into.address).toBe((count - i) * PAGE);
  }
  expect(domain.unmap(0, 2 ** 48 - 1)).toBe(count);
  expect(domain.size).toBe(0);
});

test.each([
  ['a page that begins inside', { start: 0x800, end: 0x17ff, address: 0 }],
  ['an end inside a page', { start: 0, end: 0x7ff, address: 0 }],
  ['an end before the start', { start: 0x2000, end: 0xfff, address: 0 }],
  ['a target inside a page', { start: 0, end: 0xfff, address: 0x10 }],
  ['addresses beyond 2^53', { start: 2 ** 53, end: 2 ** 53 + 4095, address: 0 }],
  ['a target that runs beyond 2^53', { start: 0, end: 0x1fff, address: 2 ** 53 - 4096 }],
])('it refuses %s', (_name, { start, end, address }) => {
  const domain = new MappedDomain(1);
  const refused = { start, end, address, rights: 'read', mmio: false } as unknown as Mapping;
  expect(() => domain.map(refused)).toThrow(RangeError);
  expect(domain.size).toBe(0);
});

describe('a device behind it', () => {
  function setUp() {
    const iommu = new Iommu(new FourSlots());
    const native = nativeMemory((PAGES + 8) * PAGE);
    for (let i = 0; i < native.bytes.length; i++) native.bytes[i] = (i >>> 12) + 1;
    const domain = new MappedDomain(iommu.newDomainId());
    iommu.table.set(RID, { domain, vm: vmId(1), slot: keySlot(1), rights: 'read-write' });
    const port = iommu.port(RID, native.memory);
    port.busMaster = true;
    return { iommu, domain, port };
  }

  test('never reads by a mapping that is gone, whatever came before', { timeout: 30_000 }, () => {
    const step = fc.oneof(
      request,
      fc.record({
        kind: fc.constant('read' as const),
        page,
        pages: fc.integer({ min: 1, max: 5 }),
      }),
    );
    fc.assert(
      fc.property(fc.array(step, { minLength: 5, maxLength: 80 }), (steps) => {
        const { iommu, domain, port } = setUp();
        const model = new Model();
        for (const asked of steps) {
          if (asked.kind === 'map') {
            const { page, pages, frame } = asked;
            domain.map(mapping(page, pages, frame));
            model.map(page, pages, frame);
            continue;
          }
          const last = lastOf(asked);
          if (asked.kind === 'unmap') {
            const answer = domain.unmap(asked.page * PAGE, (last + 1) * PAGE - 1);
            expect(answer).toBe(model.unmap(asked.page, last));
            const bytes = (last - asked.page + 1) * PAGE;
            if (answer !== 'would-split') iommu.invalidate(domain, asked.page * PAGE, bytes);
            continue;
          }
          const into = new Uint8Array(asked.pages * PAGE - 99);
          const frames = Array.from({ length: asked.pages }, (_, i) => {
            return model.frameOf(asked.page + i);
          });
          const read = () => port.readInto(asked.page * PAGE + 50, into);
          if (frames.includes(undefined)) {
            expect(read).toThrow(DmaAbort);
            continue;
          }
          read();
          for (const [i, frame] of frames.entries()) {
            expect(into[i * PAGE]).toBe(((frame ?? 0) + 1) & 0xff);
          }
        }
      }),
      { numRuns: 200 },
    );
  });

  test('takes one look-up for a long mapping, and none the second time', () => {
    const { iommu, domain, port } = setUp();
    domain.map(mapping(3, 16, 2));
    const into = new Uint8Array(16 * PAGE);
    port.readInto(3 * PAGE, into);
    expect([into[0], into[15 * PAGE]]).toEqual([3, 18]);
    port.readInto(3 * PAGE, into);
    expect(iommu.iotlb).toMatchObject({ hits: 1, misses: 1 });
    // Half of it in the middle is enough to forget a line that reaches into it.
    iommu.invalidate(domain, 10 * PAGE, PAGE);
    port.readInto(3 * PAGE, into);
    expect(iommu.iotlb.misses).toBe(2);
  });
});
