import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IdentityDomain } from '../../../src/iommu/domain.ts';
import type { HostDomain } from '../../../src/iommu/host-domain.ts';
import { Iommu } from '../../../src/iommu/iommu.ts';
import type { IommuDmaPort } from '../../../src/iommu/iommu-dma-port.ts';
import { type AccessSlot, type KeySlot, keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { DmaAbort } from '../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { FourSlots, nativeMemory } from './bench-memory.ts';

const RID = parseRequesterId('00:04.0');
const PAGE = 4096;
const PAGES = 16;
const OWN = keySlot(1);
const OTHERS = keySlot(2);
const REVOKED = keySlot(3);
const EMPTY = keySlot(9);

interface Bench {
  readonly iommu: Iommu;
  readonly port: IommuDmaPort;
  readonly table: HostDomain;
  readonly bytes: Uint8Array;
  /** The slots of the pieces of the DMA that was done last. */
  readonly slots: () => AccessSlot[];
}

/** One function of VM 1, which finds its slot as `slotFrom` says, behind a table that the host makes. */
function setUp(slotFrom: 'device-table' | 'translation'): Bench {
  const iommu = new Iommu(new FourSlots());
  const native = nativeMemory(PAGES * PAGE);
  const table = iommu.hostDomain();
  const entry = { domain: table, vm: vmId(1), rights: 'read-write' } as const;
  iommu.table.set(
    RID,
    slotFrom === 'translation' ? { ...entry, slotFrom } : { ...entry, slotFrom, slot: OWN },
  );
  let slots: AccessSlot[] = [];
  iommu.segment(0).observer = {
    done: ({ pieces, first, end }) => {
      slots = pieces.slice(first, end).map(({ slot }) => slot);
    },
  };
  const port = iommu.port(RID, native.memory);
  port.busMaster = true;
  return { iommu, port, table, bytes: native.bytes, slots: () => slots };
}

function reasonOf(access: () => void): string {
  try {
    access();
    return 'done';
  } catch (error) {
    if (error instanceof DmaAbort) return error.reason;
    throw error;
  }
}

/** Both directions are refused: nothing out, nothing changed, one record each, with this slot in it. */
function expectRefused(bench: Bench, iova: number, reason: string, slot: KeySlot | undefined) {
  bench.bytes.fill(0xab);
  for (const direction of ['read', 'write'] as const) {
    const { total } = bench.iommu.faults;
    const buffer = new Uint8Array(100).fill(0x5c);
    const access = () =>
      direction === 'read' ? bench.port.readInto(iova, buffer) : bench.port.writeFrom(iova, buffer);
    expect(reasonOf(access)).toBe(reason);
    expect([...new Set(buffer)]).toEqual([0x5c]);
    expect([...new Set(bench.bytes)]).toEqual([0xab]);
    expect(bench.iommu.faults.since(total)).toMatchObject([{ direction, reason, slot, vm: 1 }]);
  }
}

test('the same device finds its slot either way', () => {
  const byTable = setUp('device-table');
  byTable.table.map({ start: 0, bytes: PAGES * PAGE });
  byTable.port.writeFrom(100, new Uint8Array(8));
  expect(byTable.slots()).toEqual([OWN]);

  const byTranslation = setUp('translation');
  byTranslation.table.map({ start: 0, bytes: PAGES * PAGE, slot: OWN });
  byTranslation.port.writeFrom(100, new Uint8Array(8));
  expect(byTranslation.slots()).toEqual([OWN]);
});

describe('a slot that the translation names', () => {
  test.each([
    ['another VM’s', OTHERS, 'slot-of-another-vm'],
    ['revoked', REVOKED, 'slot-not-active'],
    ['empty', EMPTY, 'slot-empty'],
  ])('is looked at as the device table’s is: %s', (_name, slot, reason) => {
    const bench = setUp('translation');
    bench.table.map({ start: 0, bytes: PAGE, slot });
    expectRefused(bench, 0, reason, slot);
  });

  test('is refused once it was filled anew, also out of the IOTLB', () => {
    const bench = setUp('translation');
    bench.table.map({ start: 0, bytes: PAGE, slot: OWN, generation: 8 });
    expectRefused(bench, 0, 'slot-of-another-generation', OWN);
    bench.table.setSlot(0, PAGE, OWN, 9);
    expect(reasonOf(() => bench.port.readInto(0, new Uint8Array(16)))).toBe('done');
    bench.table.setSlot(0, PAGE, OWN);
    expect(reasonOf(() => bench.port.readInto(0, new Uint8Array(16)))).toBe('done');
  });

  test('has to be there where the function finds its slot in the translation', () => {
    const bench = setUp('translation');
    bench.table.map({ start: 0, bytes: PAGE });
    expectRefused(bench, 0, 'no-slot-in-translation', undefined);
    const identity = new IdentityDomain(bench.iommu.newDomainId());
    const entry = { vm: vmId(1), rights: 'read-write', slotFrom: 'translation' } as const;
    bench.iommu.table.set(RID, { ...entry, domain: identity });
    expectRefused(bench, 0, 'no-slot-in-translation', undefined);
  });

  test('must not be there where the device table has it, even if it is the same', () => {
    const bench = setUp('device-table');
    bench.table.map({ start: 0, bytes: PAGE, slot: OWN });
    expectRefused(bench, 0, 'unasked-slot-in-translation', OWN);
  });

  test('refuses an access as a whole, though its first bytes are under a slot that serves', () => {
    const bench = setUp('translation');
    bench.table.map({ start: 0, bytes: PAGE, slot: OWN });
    bench.table.map({ start: PAGE, bytes: PAGE, slot: OTHERS });
    expectRefused(bench, PAGE - 50, 'slot-of-another-vm', OTHERS);
  });
});

test('a line of the IOTLB keeps its slot, and a change of slot holds from the next DMA on', () => {
  const { iommu, port, table, slots } = setUp('translation');
  table.map({ start: 0, bytes: 4 * PAGE, slot: OWN });
  const read = () => reasonOf(() => port.readInto(PAGE, new Uint8Array(16)));
  expect(read()).toBe('done');
  const { misses, hits } = iommu.iotlb;
  expect(read()).toBe('done');
  expect({ misses: iommu.iotlb.misses, hits: iommu.iotlb.hits }).toEqual({
    ...{ misses, hits: hits + 1 },
  });
  expect(slots()).toEqual([OWN]);
  table.setSlot(0, 4 * PAGE, REVOKED);
  expect(read()).toBe('slot-not-active');
  table.setSlot(0, 4 * PAGE, undefined);
  expect(read()).toBe('no-slot-in-translation');
  table.setSlot(0, 4 * PAGE, OWN);
  expect(read()).toBe('done');
  table.unmap(0, 4 * PAGE);
  expect(read()).toBe('unmapped');
});

test('whatever is mapped, unmapped and changed: each page is under the slot it was given last', () => {
  const slot = fc.constantFrom(undefined, OWN, OTHERS, REVOKED, EMPTY);
  const reasons = new Map([
    [undefined, 'no-slot-in-translation'],
    [OWN, 'done'],
    [OTHERS, 'slot-of-another-vm'],
    [REVOKED, 'slot-not-active'],
    [EMPTY, 'slot-empty'],
  ]);
  const step = fc.record({
    what: fc.constantFrom('map', 'unmap', 'setSlot', 'look'),
    page: fc.nat(PAGES - 1),
    pages: fc.integer({ min: 1, max: 5 }),
    slot,
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { port, table } = setUp('translation');
      /** The mapping that each page is in. */
      const model: ({ first: number; last: number; slot: KeySlot | undefined } | undefined)[] = [];
      for (const { what, page, pages, slot } of steps) {
        const last = Math.min(page + pages, PAGES) - 1;
        const [start, bytes] = [page * PAGE, (last - page + 1) * PAGE];
        const inside = model.slice(page, last + 1);
        if (what === 'look') {
          const mapping = model[page];
          const reason = reasonOf(() => port.readInto(start + 7, new Uint8Array(PAGE - 7)));
          expect(reason).toBe(mapping === undefined ? 'unmapped' : reasons.get(mapping.slot));
        } else if (what === 'map') {
          const map = () => table.map({ start, bytes, address: gpa(0), slot });
          if (inside.some((mapping) => mapping !== undefined)) expect(map).toThrow(RangeError);
          else {
            map();
            const mapping = { first: page, last, slot };
            for (let i = page; i <= last; i++) model[i] = mapping;
          }
        } else {
          const act = () =>
            what === 'unmap' ? table.unmap(start, bytes) : table.setSlot(start, bytes, slot);
          if (inside.some((one) => one && (one.first < page || one.last > last))) {
            expect(act).toThrow(RangeError);
            continue;
          }
          act();
          for (const mapping of inside) if (mapping !== undefined) mapping.slot = slot;
          if (what === 'unmap') model.fill(undefined, page, last + 1);
        }
      }
    }),
    { numRuns: 200 },
  );
});

test('a range that is not of whole pages is no mapping', () => {
  const { table } = setUp('translation');
  expect(() => table.map({ start: 0, bytes: 100 })).toThrow(RangeError);
  expect(() => table.map({ start: 5, bytes: PAGE })).toThrow(RangeError);
  expect([...table.mappings()]).toEqual([]);
});
