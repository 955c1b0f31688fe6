import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  type Domain,
  newTranslation,
  type Rights,
  type Translation,
  type TranslationFault,
} from '../../../src/iommu/domain.ts';
import { Iommu } from '../../../src/iommu/iommu.ts';
import { type KeySlot, keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { DmaAbort } from '../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { FourSlots, nativeMemory } from './bench-memory.ts';

const PAGE = 4096;
const RID = parseRequesterId('00:05.0');

interface Mapping {
  frame: number;
  rights: Rights;
  slot?: KeySlot;
}

/** The plainest page table there is: what a guest-programmed domain must agree with. */
class PageMap implements Domain {
  readonly id: number;
  readonly cacheable = true;
  readonly pages = new Map<number, Mapping>();
  lookUps = 0;

  constructor(id: number) {
    this.id = id;
  }

  translate(iova: number, into: Translation): TranslationFault | undefined {
    this.lookUps++;
    const mapping = this.pages.get(Math.floor(iova / PAGE));
    if (mapping === undefined) return 'unmapped';
    into.address = gpa(mapping.frame * PAGE + (iova % PAGE));
    into.length = PAGE - (iova % PAGE);
    into.rights = mapping.rights;
    into.slot = mapping.slot;
    return undefined;
  }
}

function setUp(pages: number) {
  const iommu = new Iommu(new FourSlots());
  const native = nativeMemory(pages * PAGE);
  const domain = new PageMap(iommu.newDomainId());
  iommu.table.set(RID, { domain, vm: vmId(1), slot: keySlot(1), rights: 'read-write' });
  const port = iommu.port(RID, native.memory);
  port.busMaster = true;
  return { iommu, domain, port, bytes: native.bytes };
}

test('an access over scattered pages reads and writes what the page table says, or nothing', () => {
  const frames = 16;
  const page = fc.option(
    fc.record({
      frame: fc.integer({ min: 0, max: frames - 1 }),
      rights: fc.constantFrom<Rights>('read', 'write', 'read-write'),
    }),
    { nil: undefined },
  );
  fc.assert(
    fc.property(
      fc.array(page, { minLength: 8, maxLength: 8 }),
      fc.integer({ min: 0, max: 8 * PAGE - 1 }),
      fc.integer({ min: 1, max: 5 * PAGE }),
      fc.constantFrom('read' as const, 'write' as const),
      (table, start, length, direction) => {
        const { iommu, domain, port, bytes } = setUp(frames);
        for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 7 + (i >>> 12)) & 0xff;
        for (const [index, mapping] of table.entries()) {
          if (mapping !== undefined) domain.pages.set(index, mapping);
        }
        // The reference: byte by byte.
        let allowed = true;
        const places: number[] = [];
        for (let at = start; at < start + length; at++) {
          const mapping = table[Math.floor(at / PAGE)];
          if (mapping?.rights !== direction && mapping?.rights !== 'read-write') allowed = false;
          else places.push(mapping.frame * PAGE + (at % PAGE));
        }
        const before = bytes.slice();
        const buffer = new Uint8Array(length);
        for (let i = 0; i < length; i++) buffer[i] = (i * 31) & 0xff;
        const access = () =>
          direction === 'read' ? port.readInto(start, buffer) : port.writeFrom(start, buffer);
        if (!allowed) {
          expect(access).toThrow(DmaAbort);
          expect(Buffer.compare(bytes, before)).toBe(0);
          expect(iommu.faults.total).toBe(1);
          return;
        }
        access();
        if (direction === 'read') {
          expect(buffer.every((byte, i) => byte === before[places[i] ?? -1])).toBe(true);
        } else {
          for (const [i, place] of places.entries()) before[place] = buffer[i] ?? 0;
          expect(Buffer.compare(bytes, before)).toBe(0);
        }
        expect(iommu.faults.total).toBe(0);
      },
    ),
    { numRuns: 150 },
  );
});

test('a translation is looked up once, until it is invalidated', () => {
  const { iommu, domain, port, bytes } = setUp(4);
  bytes.fill(1, 0, PAGE);
  bytes.fill(2, PAGE, 2 * PAGE);
  domain.pages.set(9, { frame: 0, rights: 'read-write' });
  const into = new Uint8Array(1);
  for (let i = 0; i < 5; i++) port.readInto(9 * PAGE + i, into);
  expect(domain.lookUps).toBe(1);
  expect(iommu.iotlb.hits).toBe(4);

  domain.pages.set(9, { frame: 1, rights: 'read-write' });
  port.readInto(9 * PAGE, into);
  expect(into[0]).toBe(1);
  iommu.invalidate(domain, 9 * PAGE, PAGE);
  port.readInto(9 * PAGE, into);
  expect(into[0]).toBe(2);

  domain.pages.delete(9);
  iommu.iotlb.invalidateDomain(domain);
  expect(() => port.readInto(9 * PAGE, into)).toThrow(/unmapped/);
  // A refusal is not kept: a new mapping needs no invalidation.
  domain.pages.set(9, { frame: 0, rights: 'read' });
  port.readInto(9 * PAGE, into);
  expect(into[0]).toBe(1);
});

test('lines of domains that collide never answer for each other', () => {
  const iommu = new Iommu(new FourSlots());
  const one = new PageMap(1);
  const two = new PageMap(2);
  one.pages.set(31, { frame: 100, rights: 'read' });
  two.pages.set(0, { frame: 200, rights: 'write' });
  const into = newTranslation();
  for (let round = 0; round < 3; round++) {
    iommu.iotlb.translate(one, 31 * PAGE, into);
    expect(into).toMatchObject({ address: 100 * PAGE, rights: 'read' });
    iommu.iotlb.translate(two, 0, into);
    expect(into).toMatchObject({ address: 200 * PAGE, rights: 'write' });
  }
});

test('a slot in the translation is kept in the IOTLB, and checked as the device table’s is', () => {
  const { iommu, domain, port } = setUp(4);
  domain.pages.set(0, { frame: 0, rights: 'read-write', slot: keySlot(2) });
  const entry = { domain, rights: 'read-write', slotFrom: 'translation' } as const;
  iommu.table.set(RID, { ...entry, vm: vmId(1) });
  expect(() => port.readInto(0, new Uint8Array(1))).toThrow(/slot-of-another-vm/);
  iommu.table.set(RID, { ...entry, vm: vmId(2) });
  expect(() => port.readInto(0, new Uint8Array(1))).not.toThrow();
});
