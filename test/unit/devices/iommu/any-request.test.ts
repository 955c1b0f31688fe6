/** Whatever a driver sends is answered as a model of the specification answers it. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DmaAbort } from '../../../../src/pci/dma-port.ts';
import { bytesOf, ENDPOINTS, MEMORY_BYTES, PAGE, setUp } from './iommu-bench.ts';
import { IommuModel } from './model.ts';

/** Few, so that requests meet; and what is none of them. */
const domain = fc.oneof(
  { weight: 12, arbitrary: fc.integer({ min: 0, max: 2 }) },
  { weight: 1, arbitrary: fc.constantFrom(0xffff, 0x10000, 0xffffffff) },
);
const endpoint = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom<number>(...ENDPOINTS) },
  { weight: 1, arbitrary: fc.constantFrom(0, 0x18, 0x21, 0xffffffff) },
);
const pageNumber = fc.bigInt({ min: 0n, max: 15n });
const wild = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(2n ** 64n - 1n, 2n ** 63n, 2n ** 53n, 2n ** 52n, 2n ** 48n, 2n ** 48n - 1n),
  fc.constantFrom(0xfee0_0000n, 0xfeef_ffffn, 0xfedf_ffffn, 0xfef0_0000n),
);
const rarely = <T>(usual: fc.Arbitrary<T>, seldom: fc.Arbitrary<T>) =>
  fc.oneof({ weight: 15, arbitrary: usual }, { weight: 1, arbitrary: seldom });
const start = rarely(
  pageNumber.map((page) => page * PAGE),
  wild,
);
const end = rarely(
  pageNumber.map((page) => (page + 1n) * PAGE - 1n),
  wild,
);
const target = rarely(
  pageNumber.map((page) => page * PAGE),
  wild,
);
const few = rarely(fc.constant(0), fc.integer({ min: 0, max: 9 }));

const request = fc.oneof(
  { weight: 3, arbitrary: fc.tuple(domain, endpoint, few, few).map((a) => bytesOf.attach(...a)) },
  { weight: 1, arbitrary: fc.tuple(domain, endpoint).map((a) => bytesOf.detach(...a)) },
  {
    weight: 6,
    arbitrary: fc
      .tuple(domain, start, end, target, rarely(fc.integer({ min: 0, max: 7 }), fc.nat()))
      .map((a) => bytesOf.map(...a)),
  },
  { weight: 3, arbitrary: fc.tuple(domain, start, end, few).map((a) => bytesOf.unmap(...a)) },
  { weight: 1, arbitrary: endpoint.map((rid) => bytesOf.probe(rid)) },
);
/** A request of the above, cut short or made longer; or bytes of no meaning at all. */
const sent = fc.oneof(
  { weight: 12, arbitrary: request },
  {
    weight: 2,
    arbitrary: fc.tuple(request, fc.nat(90)).map(([bytes, length]) => {
      const other = new Uint8Array(length);
      other.set(bytes.subarray(0, length));
      return other;
    }),
  },
  {
    weight: 1,
    arbitrary: fc.uint8Array({ maxLength: 90 }).map((bytes) => {
      if (bytes.length > 0) bytes[0] = (bytes[0] ?? 0) % 8;
      return bytes;
    }),
  },
);
const writable = rarely(fc.constantFrom(4, 68), fc.nat(100));
const access = fc.record({
  who: fc.nat(ENDPOINTS.length - 1),
  at: fc.integer({ min: 0, max: 15 * 4096 }),
  length: fc.integer({ min: 1, max: 4096 + 999 }),
  write: fc.boolean(),
});

type Access = { who: number; at: number; length: number; write: boolean };
type Sent = [readable: Uint8Array, writable: number];

/** Both sides take the steps, and must agree on each. */
function check(steps: readonly (Sent | Access)[]): void {
  const { iommu, domains, ports, serve, memory } = setUp();
  const model = new IommuModel(ENDPOINTS);
  for (let i = 0; i < memory.length; i++) memory[i] = (i * 7 + (i >>> 12)) & 0xff;
  for (const step of steps) {
    if (Array.isArray(step)) {
      const expected = model.serve(...step);
      const reply = serve(...step);
      expect(reply?.length).toBe(expected && expected.at + 4);
      if (reply !== undefined && expected !== undefined) {
        expect([...reply.subarray(expected.at)]).toEqual([expected.status, 0, 0, 0]);
      }
      continue;
    }
    const { who, at, length, write } = step;
    const places = Array.from({ length }, (_, i) =>
      model.translate(ENDPOINTS[who] ?? -1, BigInt(at + i), write ? 2 : 1),
    );
    const allowed = places.every((place) => place !== undefined && place < MEMORY_BYTES);
    const before = memory.slice();
    const bytes = Uint8Array.from({ length }, (_, i) => (i * 31 + 5) & 0xff);
    const faults = iommu.faults.total;
    const run = () => (write ? ports[who]?.writeFrom(at, bytes) : ports[who]?.readInto(at, bytes));
    if (!allowed) {
      expect(run).toThrow(DmaAbort);
      expect(iommu.faults.total).toBe(faults + 1);
    } else {
      run();
      if (write) {
        for (const [i, place] of places.entries()) before[Number(place)] = bytes[i] ?? 0;
      } else {
        expect(bytes.every((byte, i) => byte === before[Number(places[i])])).toBe(true);
      }
    }
    if (Buffer.compare(memory, before) !== 0) throw new Error('expected the other bytes to stay');
  }
  const mappings = [...model.domains.values()].flatMap((each) => each.mappings);
  expect(domains).toMatchObject({ domains: model.domains.size, mappings: mappings.length });
}

test('each is answered as the model does, and devices reach what the model says, or nothing', {
  timeout: 30_000,
}, () => {
  const step = fc.oneof<[fc.WeightedArbitrary<Sent>, fc.WeightedArbitrary<Access>]>(
    { weight: 3, arbitrary: fc.tuple(sent, writable) },
    { weight: 1, arbitrary: access },
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => check(steps)),
    { numRuns: 200 },
  );
});

test('after the reply to an UNMAP, a DETACH or an ATTACH no device uses what was there before', {
  timeout: 30_000,
}, () => {
  const page = fc.nat(3);
  const at = (first: number) => BigInt(first) * PAGE;
  const tail = (bytes: Uint8Array): Sent => [bytes, 4];
  const who = fc.nat(1);
  const id = fc.nat(1);
  const endpointOf = (index: number) => ENDPOINTS[index] ?? -1;
  const step = fc.oneof<fc.WeightedArbitrary<Sent | Access>[]>(
    {
      weight: 4,
      arbitrary: fc
        .tuple(id, page, fc.integer({ min: 1, max: 2 }), fc.nat(8))
        .map(([id, first, pages, frame]) =>
          tail(bytesOf.map(id, at(first), at(first + pages) - 1n, at(frame))),
        ),
    },
    {
      weight: 3,
      arbitrary: fc
        .tuple(id, page, fc.integer({ min: 1, max: 4 }))
        .map(([id, first, pages]) => tail(bytesOf.unmap(id, at(first), at(first + pages) - 1n))),
    },
    {
      weight: 1,
      arbitrary: fc.tuple(id, who).map(([id, who]) => tail(bytesOf.attach(id, endpointOf(who)))),
    },
    {
      weight: 1,
      arbitrary: fc.tuple(id, who).map(([id, who]) => tail(bytesOf.detach(id, endpointOf(who)))),
    },
    {
      weight: 8,
      arbitrary: fc
        .tuple(who, page, fc.boolean())
        .map(([who, page, write]) => ({ who, at: page * 4096 + 9, length: 8, write })),
    },
  );
  const attached = [0, 1].map((who) => tail(bytesOf.attach(0, endpointOf(who))));
  fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 80 }), (steps) =>
      check([...attached, ...steps]),
    ),
    { numRuns: 200 },
  );
});

test('bytes of no meaning throw nothing', () => {
  const { serve } = setUp();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 128 }), fc.nat(128), (bytes, room) => {
      const reply = serve(bytes, room);
      expect((reply?.length ?? 0) <= room).toBe(true);
    }),
    { numRuns: 1000 },
  );
});
