/** DMA as a trace tells it: through a real IOMMU, with a real device-table entry. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Iommu } from '../../../src/iommu/iommu.ts';
import { MappedDomain } from '../../../src/iommu/mapped-domain.ts';
import { IN_CLEAR, isInClear, keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { type GuestMemory, gpa } from '../../../src/memory/guest-memory.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { type DmaEvent, Trace, type TraceOptions } from '../../../src/trace/index.ts';
import { FourSlots, nativeMemory } from '../iommu/bench-memory.ts';
import { Bench } from '../pci/bench.ts';
import { TracedDevice } from './traced-device.ts';

const RID = parseRequesterId('00:05.0');
const PAGE = 4096;
const native = nativeMemory(16 * PAGE);

/** Pages 0 to 3 are mapped to memory's pages 8, 2, 3 and 5. */
const TARGETS = [8, 2, 3, 5];

function setUp(options: TraceOptions = {}, memory: 'sealed' | 'plain' = 'sealed') {
  const iommu = new Iommu(new FourSlots());
  const trace = new Trace(options);
  trace.watch(iommu, memory);
  const domain = new MappedDomain(iommu.newDomainId());
  for (const [page, target] of TARGETS.entries()) {
    domain.map({
      ...{ start: page * PAGE, end: page * PAGE + PAGE - 1, address: gpa(target * PAGE) },
      ...{ rights: 'read-write', mmio: false },
    });
  }
  iommu.table.set(RID, { domain, vm: vmId(1), slot: keySlot(1), rights: 'read-write' });
  const port = iommu.port(RID, native.memory);
  port.busMaster = true;
  return { iommu, trace, port };
}

function dmaOf(trace: Trace): DmaEvent[] {
  return trace.events.filter((event) => event.kind === 'dma');
}

test('a DMA has its pieces of guest memory, runs that adjoin being one', () => {
  const { trace, port } = setUp();
  port.writeFrom(0xff0, new Uint8Array(0x2010));
  expect(dmaOf(trace)).toEqual([
    {
      t: expect.any(Number),
      kind: 'dma',
      rid: '00:05.0',
      direction: 'write',
      iova: '0xff0',
      bytes: 0x2010,
      pieces: [
        { gpa: '0x8ff0', bytes: 0x10, slot: 1, private: true },
        { gpa: '0x2000', bytes: 0x2000, slot: 1, private: true },
      ],
    },
  ]);
});

test('pieces are the translation of every byte, whatever the access', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 4 * PAGE - 1 }),
      fc.integer({ min: 1, max: 4 * PAGE }),
      fc.boolean(),
      (iova, wanted, write) => {
        const length = Math.min(wanted, 4 * PAGE - iova);
        const { trace, port } = setUp();
        const bytes = new Uint8Array(length);
        if (write) port.writeFrom(iova, bytes);
        else port.readInto(iova, bytes);
        const [dma] = dmaOf(trace);
        const places = dma?.pieces.flatMap((piece) =>
          Array.from({ length: piece.bytes }, (_, i) => Number(piece.gpa) + i),
        );
        const expected = Array.from({ length }, (_, i) => {
          const at = iova + i;
          return (TARGETS[Math.floor(at / PAGE)] ?? 0) * PAGE + (at % PAGE);
        });
        expect(places).toEqual(expected);
      },
    ),
    { numRuns: 50 },
  );
});

test('nothing of the data is kept unless asked for, and then the first bytes alone', () => {
  const sent = Uint8Array.from({ length: 300 }, (_, i) => i & 0xff);
  const dataWith = (dataBytesMax?: number) => {
    const { trace, port } = setUp(dataBytesMax === undefined ? {} : { dataBytesMax });
    const mine = sent.slice();
    port.writeFrom(0, mine);
    mine.fill(0);
    const read = new Uint8Array(3);
    port.readInto(1, read);
    read.fill(0);
    return dmaOf(trace).map(({ data }) => data);
  };
  expect(dataWith()).toEqual([undefined, undefined]);
  expect(dataWith(0)).toEqual([undefined, undefined]);
  expect(dataWith(2)).toEqual(['0001', '0102']);
  expect(dataWith(Number.POSITIVE_INFINITY)).toEqual([Buffer.from(sent).toString('hex'), '010203']);
});

test('data in memory has a bound; what is beyond it is counted', () => {
  const { trace, port } = setUp({ dataBytesMax: Number.POSITIVE_INFINITY, dataBytesTotalMax: 500 });
  for (let n = 0; n < 5; n++) port.writeFrom(0, new Uint8Array(200));
  expect(dmaOf(trace)).toHaveLength(2);
  expect(trace.dropped).toBe(3);
});

test('plain memory is told as such', () => {
  const { trace, port } = setUp({}, 'plain');
  port.readInto(0, new Uint8Array(1));
  expect(dmaOf(trace)[0]?.pieces).toMatchObject([{ private: false }]);
  expect(trace.header.memory).toBe('plain');
});

test('a piece in the clear has no slot, and one that meets pages of the other kind says so, as no fault', () => {
  const { iommu, trace } = setUp();
  const { memory } = native;
  const half: GuestMemory = {
    mode: 'sealed',
    permits: () => true,
    // As if the second page alone were shared.
    crosses: (slot, address) => isInClear(slot) !== address >= 3 * PAGE,
    read: (address, slot, into) => memory.read(address, slot, into),
    write: (address, slot, from) => memory.write(address, slot, from),
    readBatch: (runs, count) => memory.readBatch(runs, count),
    writeBatch: (runs, count) => memory.writeBatch(runs, count),
  };
  const table = iommu.hostDomain();
  table.map({ start: 0, bytes: PAGE, address: gpa(PAGE) });
  table.map({ start: PAGE, bytes: PAGE, address: gpa(3 * PAGE) });
  table.map({ start: 2 * PAGE, bytes: PAGE, address: gpa(3 * PAGE), slot: IN_CLEAR });
  iommu.table.set(RID, { domain: table, vm: vmId(1), slot: keySlot(1), rights: 'read-write' });
  const port = iommu.port(RID, half);
  port.busMaster = true;
  port.readInto(PAGE - 8, new Uint8Array(16));
  port.readInto(2 * PAGE, new Uint8Array(8));
  expect(trace.events.map(({ kind }) => kind)).toEqual(['dma', 'dma']);
  expect(dmaOf(trace).map(({ pieces }) => pieces)).toEqual([
    [
      { gpa: '0x1ff8', bytes: 8, slot: 1, private: true },
      { gpa: '0x3000', bytes: 8, slot: 1, private: true, crosses: true },
    ],
    [{ gpa: '0x3000', bytes: 8, private: false }],
  ]);
  expect(iommu.faults.records).toMatchObject([{ reason: 'page-is-shared', refused: false }]);
});

test('each access of a batch is told by itself, refused ones as faults', () => {
  const { trace, port } = setUp();
  const accesses = [0x10, 4 * PAGE, 0x1ff8].map((iova) => {
    return { iova, bytes: new Uint8Array(16), abort: undefined };
  });
  expect(port.readBatch(accesses, 3)).toBe(1);
  expect(dmaOf(trace).map(({ iova, pieces }) => [iova, pieces.length])).toEqual([
    ['0x10', 1],
    ['0x1ff8', 1],
  ]);
  expect(trace.events.filter(({ kind }) => kind === 'fault')).toMatchObject([
    {
      rid: '00:05.0',
      direction: 'read',
      iova: '0x4000',
      bytes: 16,
      reason: 'unmapped',
      slot: 1,
      generation: 10,
    },
  ]);
});

test('an address beyond 2^53 is told exactly', () => {
  const { trace, port } = setUp();
  expect(() => port.readInto(2n ** 64n - 1n, new Uint8Array(1))).toThrow();
  expect(trace.events).toMatchObject([{ kind: 'fault', iova: '0xffffffffffffffff' }]);
});

test('a DMA comes after the access that set it off, and two traces see the same', () => {
  const { trace, iommu, port } = setUp();
  const other = new Trace();
  other.watch(iommu, 'sealed');
  const device = new TracedDevice();
  const bench = new Bench(trace.around(device, RID), { memoryBytes: 16 });
  Object.assign(bench.dma, {
    readInto: port.readInto.bind(port),
    writeFrom: port.writeFrom.bind(port),
  });
  bench.write(0x14, 0x123);
  bench.read(0x44);
  const kinds = trace.events.slice(1).map(({ kind }) => kind);
  expect(kinds).toEqual(['register', 'dma', 'register', 'dma']);
  expect(trace.events[3]).toMatchObject({ register: 'busy', value: '0x0' });
  expect(dmaOf(other).map(({ iova }) => iova)).toEqual(['0x123', '0x0']);
});
