import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { DeviceTableEntry } from '../../../src/iommu/device-table.ts';
import { DMA_MAX_BYTES } from '../../../src/iommu/dma-length.ts';
import {
  BlockedDomain,
  type Domain,
  IdentityDomain,
  type Rights,
  type Translation,
} from '../../../src/iommu/domain.ts';
import { Iommu } from '../../../src/iommu/iommu.ts';
import type { IommuDmaPort } from '../../../src/iommu/iommu-dma-port.ts';
import { type KeySlot, keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import type { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { gpa, MemoryError } from '../../../src/memory/guest-memory.ts';
import {
  DmaAbort,
  type DmaAccess,
  type FaultReason,
  type Iova,
} from '../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { FourSlots, nativeMemory } from './bench-memory.ts';

const RID = parseRequesterId('00:04.0');
const BYTES = 64 * 1024;

/** Parts of an entry: those that only one way of finding the slot has cannot be mixed. */
type Change = Partial<Pick<DeviceTableEntry, 'domain' | 'rights'>> &
  (
    | { slot?: KeySlot; generation?: number | undefined }
    | { slotFrom: 'translation'; slot?: undefined }
  );

function setUp(change: Change = {}, memory?: GuestMemory) {
  const iommu = new Iommu(new FourSlots());
  const native = nativeMemory(BYTES);
  const entry: DeviceTableEntry = {
    ...{ domain: new IdentityDomain(iommu.newDomainId()), vm: vmId(1), rights: 'read-write' },
    ...{ slot: keySlot(1), ...change },
  } as DeviceTableEntry;
  iommu.table.set(RID, entry);
  const port = iommu.port(RID, memory ?? native.memory);
  port.busMaster = true;
  return { iommu, port, entry, bytes: native.bytes };
}

function reasonOf(access: () => void): FaultReason | 'allowed' {
  try {
    access();
  } catch (error) {
    if (error instanceof DmaAbort) return error.reason;
    throw error;
  }
  return 'allowed';
}

/** Both directions of one refused access: nothing out, nothing changed, one record each. */
function expectRefused(
  { port, iommu, bytes }: { port: IommuDmaPort; iommu: Iommu; bytes: Uint8Array },
  iova: Iova,
  length: number,
  reasons: { read?: FaultReason; write?: FaultReason },
) {
  bytes.fill(0xab);
  const before = bytes.slice();
  for (const direction of ['read', 'write'] as const) {
    const reason = reasons[direction];
    if (reason === undefined) continue;
    const buffer = new Uint8Array(length).fill(0x5c);
    const faults = iommu.faults.total;
    const access = () =>
      direction === 'read' ? port.readInto(iova, buffer) : port.writeFrom(iova, buffer);
    expect(reasonOf(access)).toBe(reason);
    expect(buffer.every((byte) => byte === 0x5c)).toBe(true);
    expect(bytes).toEqual(before);
    expect(iommu.faults.since(faults)).toMatchObject([
      { rid: RID, direction, iova, length, reason },
    ]);
  }
}

describe('what is refused', () => {
  test('a function without a device-table entry, from the moment it is removed', () => {
    const bench = setUp();
    expect(reasonOf(() => bench.port.readInto(0, new Uint8Array(1)))).toBe('allowed');
    bench.iommu.table.delete(RID);
    const reason = 'no-device-table-entry';
    expectRefused(bench, 0x1000, 16, { read: reason, write: reason });
  });

  test('a function whose bus mastering is off', () => {
    const bench = setUp();
    bench.port.busMaster = false;
    const reason = 'bus-master-disabled';
    expectRefused(bench, 0x1000, 16, { read: reason, write: reason });
  });

  test('a blocked domain', () => {
    const bench = setUp({ domain: new BlockedDomain(77) });
    expectRefused(bench, 0x1000, 16, { read: 'blocked-domain', write: 'blocked-domain' });
  });

  test.each<[Rights, { read?: FaultReason; write?: FaultReason }]>([
    ['read', { write: 'no-write-permission' }],
    ['write', { read: 'no-read-permission' }],
    ['none', { read: 'no-read-permission', write: 'no-write-permission' }],
  ])('what rights of %s do not allow, in the entry and in the domain', (rights, reasons) => {
    expectRefused(setUp({ rights }), 0x1000, 16, reasons);
    expectRefused(setUp({ domain: new IdentityDomain(5, rights) }), 0x1000, 16, reasons);
  });

  test.each<[number, FaultReason]>([
    [9, 'slot-empty'],
    [2, 'slot-of-another-vm'],
    [3, 'slot-not-active'],
  ])('slot %i: %s', (slot, reason) => {
    expectRefused(setUp({ slot: keySlot(slot) }), 0x1000, 16, { read: reason, write: reason });
  });

  test('a slot that was filled anew since the entry named it, and no other', () => {
    const reason = 'slot-of-another-generation';
    expectRefused(setUp({ generation: 8 }), 0x1000, 16, { read: reason, write: reason });
    // A rotation began no new life, and the entry may be of before it; or say nothing.
    for (const generation of [9, 10, undefined]) {
      const { port } = setUp({ generation });
      expect(reasonOf(() => port.readInto(0x1000, new Uint8Array(16)))).toBe('allowed');
    }
  });

  test('the record names the slot that was resolved, of the entry or the translation, and its generation', () => {
    const record = (change: Parameters<typeof setUp>[0]) => {
      const { port, iommu } = setUp(change);
      reasonOf(() => port.readInto(0x1000, new Uint8Array(16)));
      return iommu.faults.records[0];
    };
    expect(record({ slot: keySlot(3) })).toMatchObject({ slot: 3, generation: 30 });
    expect(record({ slot: keySlot(9) })).toMatchObject({ slot: 9, generation: 0 });
    const identity = new IdentityDomain(5);
    const domain: Domain = {
      ...{ id: 5, cacheable: false },
      translate(iova, into) {
        const fault = identity.translate(iova, into);
        into.slot = keySlot(2);
        return fault;
      },
    };
    const reason = 'slot-of-another-vm';
    expect(record({ domain, slotFrom: 'translation', slot: undefined })).toMatchObject({
      ...{ reason, slot: 2, generation: 20 },
    });
  });

  test('any range that leaves memory, whole', () => {
    const bench = setUp();
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4096 }), fc.integer({ min: 1, max: 64 }), (n, past) => {
        const reason = 'outside-memory';
        const start = BYTES - n + Math.min(past, n);
        expectRefused(bench, start, n, { read: reason, write: reason });
      }),
      { numRuns: 50 },
    );
  });

  test.each<[Iova]>([[2n ** 64n - 4096n], [2n ** 53n], [Number.MAX_SAFE_INTEGER], [-1]])(
    'address %s, which no domain can map',
    (iova) => {
      expectRefused(setUp(), iova, 16, { read: 'unmapped', write: 'unmapped' });
    },
  );

  test('memory that fails: a fault, and zeros instead of what had been read', () => {
    const broken: GuestMemory = {
      mode: 'sealed',
      permits: () => true,
      crosses: () => false,
      read: (_address, _slot, into) => {
        into[0] = 0x99;
        throw new MemoryError('expected an answer, got none');
      },
      write: () => {
        throw new MemoryError('expected an answer, got none');
      },
      readBatch: () => {},
      writeBatch: () => {},
    };
    const { port, iommu } = setUp({}, broken);
    const into = new Uint8Array(16);
    expect(reasonOf(() => port.readInto(0, into))).toBe('memory-failed');
    expect(into).toEqual(new Uint8Array(16));
    expect(reasonOf(() => port.writeFrom(0, into))).toBe('memory-failed');
    expect(iommu.faults.total).toBe(2);
  });

  test.each([[0], [-1], [1.5], [DMA_MAX_BYTES + 1]])(
    'a length of %s is the device author’s mistake, not a fault of the guest',
    async (length) => {
      const { port, iommu } = setUp();
      await expect(port.read(0, length)).rejects.toThrow(RangeError);
      expect(iommu.faults.total).toBe(0);
    },
  );
});

test('every allowed access moves exactly its bytes', () => {
  const { port, bytes, iommu } = setUp();
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: BYTES - 1 }),
      fc.uint8Array({ minLength: 1, maxLength: 9000 }),
      (start, data) => {
        const fitting = data.subarray(0, Math.min(data.length, BYTES - start));
        const expected = bytes.slice();
        expected.set(fitting, start);
        port.writeFrom(start, fitting);
        expect(Buffer.compare(bytes, expected)).toBe(0);
        const back = new Uint8Array(fitting.length);
        port.readInto(BigInt(start), back);
        expect(back).toEqual(fitting);
      },
    ),
    { numRuns: 200 },
  );
  expect(iommu.faults.total).toBe(0);
});

test('an entry that is replaced holds from the next DMA on', () => {
  const { iommu, port, entry } = setUp();
  expect(reasonOf(() => port.writeFrom(0, new Uint8Array(4)))).toBe('allowed');
  iommu.table.set(RID, { ...entry, rights: 'read' });
  expect(reasonOf(() => port.writeFrom(0, new Uint8Array(4)))).toBe('no-write-permission');
  iommu.table.set(RID, entry);
  expect(reasonOf(() => port.writeFrom(0, new Uint8Array(4)))).toBe('allowed');
});

test('the promises reject as the calls throw', async () => {
  const { port } = setUp({ rights: 'none' });
  await expect(port.read(0, 4)).rejects.toThrow(DmaAbort);
  await expect(port.write(0, new Uint8Array(4))).rejects.toThrow(DmaAbort);
});

/**
 * Puts pages that follow each other apart. Every eighth may only be read, and every eighth goes through
 * a slot that is not active.
 */
class ShuffledPages implements Domain {
  readonly id = 88;
  readonly cacheable = true;

  translate(iova: number, into: Translation): 'unmapped' | undefined {
    if (iova >= BYTES) return 'unmapped';
    const page = Math.floor(iova / 4096);
    into.address = gpa(ShuffledPages.page(page) * 4096 + (iova % 4096));
    into.length = 4096 - (iova % 4096);
    into.rights = page % 8 === 7 ? 'read' : 'read-write';
    into.slot = page % 8 === 3 ? keySlot(3) : keySlot(1);
    return undefined;
  }

  static page(page: number): number {
    return (page * 7) % (BYTES / 4096);
  }
}

function shuffled(): Change {
  return { domain: new ShuffledPages(), slotFrom: 'translation', slot: undefined };
}

function access(iova: Iova, length: number, fill = 0): DmaAccess {
  return { iova, bytes: new Uint8Array(length).fill(fill), abort: undefined };
}

describe('batches', () => {
  const anAccess = fc.record({
    start: fc.integer({ min: 0, max: BYTES + 3000 }),
    length: fc.integer({ min: 1, max: 3 * 4096 }),
    fill: fc.integer({ min: 1, max: 255 }),
  });

  test('a batch does and refuses what the same accesses would one by one', () => {
    fc.assert(
      fc.property(
        fc.array(anAccess, { maxLength: 40 }),
        fc.constantFrom('read' as const, 'write' as const),
        (wanted, direction) => {
          const [one, many] = [setUp(shuffled()), setUp(shuffled())];
          for (const { bytes } of [one, many]) {
            for (let i = 0; i < BYTES; i++) bytes[i] = (i * 31) >> 3;
          }
          const accesses = wanted.map(({ start, length, fill }) => access(start, length, fill));
          const alone = wanted.map(({ start, length, fill }) => access(start, length, fill));
          const reasons = alone.map(({ iova, bytes }) =>
            reasonOf(() =>
              direction === 'read'
                ? one.port.readInto(iova, bytes)
                : one.port.writeFrom(iova, bytes),
            ),
          );
          const refused =
            direction === 'read'
              ? many.port.readBatch(accesses, accesses.length)
              : many.port.writeBatch(accesses, accesses.length);
          expect(accesses.map(({ abort }) => abort?.reason ?? 'allowed')).toEqual(reasons);
          expect(refused).toBe(reasons.filter((reason) => reason !== 'allowed').length);
          for (const [i, { bytes }] of accesses.entries()) {
            expect(Buffer.compare(bytes, alone[i]?.bytes ?? bytes)).toBe(0);
          }
          // In plain memory the order is that of the batch, so overlaps end alike.
          expect(Buffer.compare(many.bytes, one.bytes)).toBe(0);
          const faults = ({ iommu }: typeof one) =>
            iommu.faults.since(0).map(({ iova, length, reason }) => ({ iova, length, reason }));
          expect(faults(many)).toEqual(faults(one));
        },
      ),
      { numRuns: 100 },
    );
  });

  test('only the first so many are done, and a batch may have none', () => {
    const { port, bytes } = setUp();
    const accesses = [access(0, 4, 1), access(4, 4, 2), access(8, 4, 3)];
    expect(port.writeBatch(accesses, 0)).toBe(0);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    expect(port.writeBatch(accesses, 2)).toBe(0);
    expect([...bytes.subarray(0, 12)]).toEqual([1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0]);
  });

  test('a batch of more segments than go to memory at once is done whole', () => {
    const { port, bytes, iommu } = setUp(shuffled());
    for (let page = 0; page < BYTES / 4096; page++) {
      bytes.fill(page + 1, ShuffledPages.page(page) * 4096, (ShuffledPages.page(page) + 1) * 4096);
    }
    const accesses = Array.from({ length: 1000 }, (_, i) => access((i % 16) * 4096 + 4000, 90));
    const refused = port.readBatch(accesses, accesses.length);
    const expected = accesses.filter((_, i) => i % 8 === 3).length;
    for (const [i, { bytes: got, abort }] of accesses.entries()) {
      const inactive = i % 8 === 3;
      expect(abort?.reason).toBe(inactive ? 'slot-not-active' : undefined);
      expect([...new Set(got)]).toEqual([inactive ? 0 : (i % 16) + 1]);
    }
    expect(refused).toBe(expected);
    expect(iommu.faults.total).toBe(expected);
  });

  test('memory that fails some segments: their accesses abort once each, with zeros', () => {
    const some: GuestMemory = {
      mode: 'sealed',
      permits: () => true,
      crosses: () => false,
      read: () => {},
      write: () => {},
      readBatch: (runs, count) => {
        for (const run of runs.slice(0, count)) {
          const fails = Math.floor(run.address / 4096) % 2 === 1;
          run.failure = fails ? new MemoryError('expected an answer, got none') : undefined;
          run.bytes.fill(0x77, run.start, run.start + run.length);
        }
      },
      writeBatch: (runs, count) => some.readBatch(runs, count),
    };
    // Page p lies at 7 p: odd pages fail.
    const { port, iommu } = setUp(shuffled(), some);
    const accesses = [access(0, 100), access(4096, 100), access(0x1000, 3), access(0x2000, 5)];
    const scattered = access(4000, 2 * 4096 + 50);
    expect(port.readBatch(accesses, 4)).toBe(2);
    expect(accesses.map(({ abort }) => abort?.reason)).toEqual([
      ...[undefined, 'memory-failed', 'memory-failed', undefined],
    ]);
    expect(accesses.map(({ bytes }) => bytes[0])).toEqual([0x77, 0, 0, 0x77]);
    expect(iommu.faults.total).toBe(2);
    expect(reasonOf(() => port.readInto(scattered.iova, scattered.bytes))).toBe('memory-failed');
    expect(scattered.bytes.every((byte) => byte === 0)).toBe(true);
    expect(iommu.faults.total).toBe(3);
    expect(port.writeBatch([scattered], 1)).toBe(1);
    expect(iommu.faults.total).toBe(4);
    // What failed once is not held against the next.
    expect(port.readBatch(accesses, 1)).toBe(0);
    expect(accesses[0]?.abort).toBeUndefined();
  });

  test('a length that no access may have is found before any byte moves', () => {
    const { port, bytes, iommu } = setUp();
    const accesses = [access(0, 4, 1), access(4, 0)];
    expect(() => port.writeBatch(accesses, 2)).toThrow(RangeError);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    expect(iommu.faults.total).toBe(0);
  });
});
