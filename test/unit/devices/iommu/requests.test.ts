/** Requests, one by one: each gets the status that virtio 1.2 §5.13.6 names, and does what it says. */
import { describe, expect, test } from 'vitest';
import { DmaAbort } from '../../../../src/pci/dma-port.ts';
import type { RequesterId } from '../../../../src/pci/requester-id.ts';
import { bytesOf, ENDPOINTS, PAGE, setUp } from './iommu-bench.ts';

const [first = 0, second = 0] = ENDPOINTS;
const BYPASS = 1;
/** VIRTIO_IOMMU_S_… */
const [OK, INVAL, RANGE, NOENT, FAULT, NOMEM, DEVERR] = [0, 4, 5, 6, 7, 8, 3];
const NOBODY = 0x28 + 0x100;

describe('ATTACH', () => {
  test('points the entry to the domain and leaves VM, slot and rights as they are', () => {
    const { iommu, ask } = setUp();
    const before = iommu.table.get(ENDPOINTS[0] ?? fail());
    expect(ask(bytesOf.attach(7, first))).toBe(OK);
    const after = iommu.table.get(ENDPOINTS[0] ?? fail());
    expect(after).toEqual({ ...before, domain: after?.domain });
    expect(after?.domain).not.toBe(before?.domain);
    expect(after?.domain.cacheable).toBe(true);
  });

  test('twice to the same domain changes nothing', () => {
    const { domains, ask } = setUp();
    expect(ask(bytesOf.attach(7, first))).toBe(OK);
    expect(ask(bytesOf.map(7, 0n, PAGE - 1n, 0n))).toBe(OK);
    expect(ask(bytesOf.attach(7, first))).toBe(OK);
    expect(domains).toMatchObject({ domains: 1, mappings: 1 });
  });

  test('to another domain detaches from the first, which ends with its last endpoint', () => {
    const { domains, ask } = setUp();
    for (const endpoint of [first, second]) expect(ask(bytesOf.attach(7, endpoint))).toBe(OK);
    expect(ask(bytesOf.map(7, 0n, PAGE - 1n, 0n))).toBe(OK);
    expect(ask(bytesOf.attach(8, first))).toBe(OK);
    expect(domains).toMatchObject({ domains: 2, mappings: 1 });
    expect(ask(bytesOf.detach(7, first))).toBe(INVAL);
    expect(ask(bytesOf.attach(8, second))).toBe(OK);
    expect(domains).toMatchObject({ domains: 1, mappings: 0 });
    expect(ask(bytesOf.map(7, 0n, PAGE - 1n, 0n))).toBe(NOENT);
  });

  test('an endpoint that is taken out is unknown, and ends its domain as the last one', () => {
    const { domains, ask } = setUp();
    for (const endpoint of [first, second]) expect(ask(bytesOf.attach(7, endpoint))).toBe(OK);
    expect(ask(bytesOf.map(7, 0n, PAGE - 1n, 0n))).toBe(OK);
    domains.removeEndpoint(first as RequesterId);
    expect(domains).toMatchObject({ domains: 1, mappings: 1 });
    expect(ask(bytesOf.attach(7, first))).toBe(NOENT);
    domains.removeEndpoint(second as RequesterId);
    expect(domains).toMatchObject({ domains: 0, mappings: 0 });
    domains.removeEndpoint(second as RequesterId);
    domains.reset();
  });

  test('shares a domain between its endpoints', () => {
    const { ports, ask, memory } = setUp();
    memory[0x5000] = 77;
    for (const endpoint of [first, second]) expect(ask(bytesOf.attach(7, endpoint))).toBe(OK);
    expect(ask(bytesOf.map(7, 0x9000n, 0x9fffn, 0x5000n))).toBe(OK);
    for (const port of ports.slice(0, 2)) {
      const into = new Uint8Array(1);
      port.readInto(0x9000, into);
      expect(into[0]).toBe(77);
    }
  });

  test('refuses what is not there, what it does not know, and what does not fit', () => {
    const { domains, ask } = setUp();
    expect(ask(bytesOf.attach(7, NOBODY))).toBe(NOENT);
    expect(ask(bytesOf.attach(7, first, 2))).toBe(INVAL);
    expect(ask(bytesOf.attach(7, first, 0, 1))).toBe(INVAL);
    expect(ask(bytesOf.attach(0x10000, first))).toBe(RANGE);
    expect(domains.domains).toBe(0);
    expect(ask(bytesOf.attach(7, first))).toBe(OK);
    expect(ask(bytesOf.attach(7, second, BYPASS))).toBe(INVAL);
    expect(ask(bytesOf.attach(7, first, BYPASS))).toBe(INVAL);
    expect(ask(bytesOf.map(7, 0n, PAGE - 1n, 0n))).toBe(OK);
  });

  test('a bypass domain translates by the identity and maps nothing', () => {
    const { domains, ports, ask, memory } = setUp();
    memory[0x3000] = 5;
    domains.bypass = false;
    expect(ask(bytesOf.attach(7, first, BYPASS))).toBe(OK);
    const into = new Uint8Array(1);
    ports[0]?.readInto(0x3000, into);
    expect(into[0]).toBe(5);
    expect(ask(bytesOf.map(7, 0n, PAGE - 1n, 0n))).toBe(INVAL);
    expect(ask(bytesOf.unmap(7, 0n, PAGE - 1n))).toBe(INVAL);
    expect(ask(bytesOf.attach(7, second))).toBe(INVAL);
  });

  test('without VIRTIO_IOMMU_F_BYPASS_CONFIG nobody knows the bypass flag', () => {
    const { ask } = setUp({ features: [2] });
    expect(ask(bytesOf.attach(7, first, BYPASS))).toBe(INVAL);
    expect(ask(bytesOf.attach(7, first))).toBe(OK);
  });

  test('an entry that is gone from the device table cannot be attached', () => {
    const { iommu, domains, ask } = setUp();
    iommu.table.delete(ENDPOINTS[0] ?? fail());
    expect(ask(bytesOf.attach(7, first))).toBe(DEVERR);
    expect(domains.domains).toBe(0);
  });
});

describe('DETACH', () => {
  test('refuses endpoints and domains that do not belong together', () => {
    const { ask } = setUp();
    expect(ask(bytesOf.detach(7, NOBODY))).toBe(NOENT);
    expect(ask(bytesOf.detach(7, first))).toBe(INVAL);
    expect(ask(bytesOf.attach(7, first))).toBe(OK);
    expect(ask(bytesOf.detach(8, first))).toBe(INVAL);
    expect(ask(bytesOf.detach(7, second))).toBe(INVAL);
  });

  test.each([[true], [false]])('leaves the endpoint to bypass %s', (bypass) => {
    const { domains, iommu, ports, ask } = setUp();
    domains.bypass = bypass;
    expect(ask(bytesOf.attach(7, first))).toBe(OK);
    expect(ask(bytesOf.map(7, 0x9000n, 0x9fffn, 0x5000n))).toBe(OK);
    const reach = () => ports[0]?.readInto(0x9000, new Uint8Array(1));
    reach();
    expect(ask(bytesOf.detach(7, first))).toBe(OK);
    expect(domains).toMatchObject({ domains: 0, mappings: 0 });
    if (bypass) reach();
    else expect(reach).toThrow(/blocked-domain/);
    expect(iommu.faults.total).toBe(bypass ? 0 : 1);
  });
});

describe('MAP', () => {
  const attached = (options?: Parameters<typeof setUp>[0]) => {
    const bench = setUp(options);
    expect(bench.ask(bytesOf.attach(1, first))).toBe(OK);
    return bench;
  };
  const TOP = 2n ** 64n - 1n;

  test.each<[string, Uint8Array, number]>([
    ['a start inside a page', bytesOf.map(1, 0x800n, 0x1fffn, 0n), RANGE],
    ['an end inside a page', bytesOf.map(1, 0n, 0x1000n, 0n), RANGE],
    ['a target inside a page', bytesOf.map(1, 0n, 0xfffn, 0x10n), RANGE],
    ['an end before the start', bytesOf.map(1, 0x2000n, 0xfffn, 0n), INVAL],
    ['no byte at all', bytesOf.map(1, 0x1000n, 0xfffn, 0n), INVAL],
    [
      'what begins beyond the input range',
      bytesOf.map(1, 2n ** 48n, 2n ** 48n + 0xfffn, 0n),
      RANGE,
    ],
    ['what ends beyond it', bytesOf.map(1, 0n, 2n ** 48n + 0xfffn, 0n), RANGE],
    ['all of 64 bits', bytesOf.map(1, 0n, TOP, 0n), RANGE],
    ['the last page of 64 bits', bytesOf.map(1, TOP - 0xfffn, TOP, 0n), RANGE],
    ['a target beyond physical memory', bytesOf.map(1, 0n, 0xfffn, 2n ** 52n), FAULT],
    ['a target that runs beyond it', bytesOf.map(1, 0n, 0x1fffn, 2n ** 52n - 0x1000n), FAULT],
    ['a target that wraps around', bytesOf.map(1, 0n, 0x1fffn, TOP - 0xfffn), FAULT],
    ['a flag of no meaning', bytesOf.map(1, 0n, 0xfffn, 0n, 8), INVAL],
    ['where interrupts go', bytesOf.map(1, 0xfee0_0000n, 0xfee0_0fffn, 0n), INVAL],
    ['around where they go', bytesOf.map(1, 0xfe00_0000n, 0xffff_ffffn, 0n), INVAL],
    ['a domain that is not there', bytesOf.map(2, 0n, 0xfffn, 0n), NOENT],
  ])('refuses %s', (_name, request, status) => {
    const { domains, ask } = attached();
    expect(ask(request)).toBe(status);
    expect(domains.mappings).toBe(0);
  });

  test('takes the first and the last page of the range, and both sides of the interrupts', () => {
    const { ask } = attached();
    expect(ask(bytesOf.map(1, 0n, 0xfffn, 2n ** 52n - 0x1000n))).toBe(OK);
    expect(ask(bytesOf.map(1, 2n ** 48n - 0x1000n, 2n ** 48n - 1n, 0n))).toBe(OK);
    expect(ask(bytesOf.map(1, 0xfedf_f000n, 0xfedf_ffffn, 0n))).toBe(OK);
    expect(ask(bytesOf.map(1, 0xfef0_0000n, 0xfef0_0fffn, 0n))).toBe(OK);
  });

  test('refuses an overlap by a single page, and the mapping that was there stays', () => {
    const { ports, ask, memory } = attached();
    memory[0x6000] = 9;
    expect(ask(bytesOf.map(1, 0x4000n, 0x7fffn, 0x5000n))).toBe(OK);
    for (const [start, end] of [
      [0x7000n, 0x8fffn],
      [0x1000n, 0x4fffn],
      [0x5000n, 0x5fffn],
      [0n, 0xffffn],
    ]) {
      expect(ask(bytesOf.map(1, start ?? 0n, end ?? 0n, 0n))).toBe(INVAL);
    }
    const into = new Uint8Array(1);
    ports[0]?.readInto(0x5000, into);
    expect(into[0]).toBe(9);
  });

  test('refuses one more than the bound, and takes it when another has gone', () => {
    const { domains, ask } = attached({ mappingsMax: 3 });
    expect(ask(bytesOf.attach(2, second))).toBe(OK);
    for (const [domain, at] of [
      [1, 0n],
      [2, 0n],
      [1, 1n],
    ] as const) {
      expect(ask(bytesOf.map(domain, at * PAGE, (at + 1n) * PAGE - 1n, 0n))).toBe(OK);
    }
    expect(ask(bytesOf.map(2, PAGE, 2n * PAGE - 1n, 0n))).toBe(NOMEM);
    expect(ask(bytesOf.unmap(1, 0n, 2n * PAGE - 1n))).toBe(OK);
    expect(domains.mappings).toBe(1);
    expect(ask(bytesOf.map(2, PAGE, 2n * PAGE - 1n, 0n))).toBe(OK);
    // A domain that ends gives back all that was its own.
    expect(ask(bytesOf.detach(2, second))).toBe(OK);
    expect(domains.mappings).toBe(0);
  });

  test.each([
    [0, undefined, undefined],
    [1, 'read', undefined],
    [2, undefined, 'write'],
    [3, 'read', 'write'],
    [7, 'read', 'write'],
  ])('flags %i allow %s %s', (flags, read, write) => {
    const { ports, ask } = attached();
    expect(ask(bytesOf.map(1, 0n, 0xfffn, 0x1000n, flags))).toBe(OK);
    const readIt = () => ports[0]?.readInto(0, new Uint8Array(8));
    const writeIt = () => ports[0]?.writeFrom(0, new Uint8Array(8));
    if (read) readIt();
    else expect(readIt).toThrow(/no-read-permission/);
    if (write) writeIt();
    else expect(writeIt).toThrow(/no-write-permission/);
  });

  test('without VIRTIO_IOMMU_F_MMIO nobody knows the MMIO flag', () => {
    const { ask } = attached({ features: [2] });
    expect(ask(bytesOf.map(1, 0n, 0xfffn, 0n, 7))).toBe(INVAL);
  });
});

describe('UNMAP', () => {
  const mapped = () => {
    const bench = setUp();
    expect(bench.ask(bytesOf.attach(1, first))).toBe(OK);
    expect(bench.ask(bytesOf.map(1, 0x4000n, 0x7fffn, 0x5000n))).toBe(OK);
    return bench;
  };

  test.each<[string, Uint8Array, number, number]>([
    ['half of a mapping', bytesOf.unmap(1, 0x4000n, 0x5fffn), RANGE, 1],
    ['a byte of it', bytesOf.unmap(1, 0x7fffn, 0x7fffn), RANGE, 1],
    ['all but its last byte', bytesOf.unmap(1, 0x4000n, 0x7ffen), RANGE, 1],
    ['more than it, in odd places', bytesOf.unmap(1, 0x3ff1n, 0x8123n), OK, 0],
    ['all that there is', bytesOf.unmap(1, 0n, 2n ** 64n - 1n), OK, 0],
    ['what is not mapped', bytesOf.unmap(1, 0x8000n, 0xffffn), OK, 1],
    ['what never can be', bytesOf.unmap(1, 2n ** 60n, 2n ** 61n), OK, 1],
    ['an end before the start', bytesOf.unmap(1, 0x7fffn, 0x4000n), INVAL, 1],
    ['with a reserved field set', bytesOf.unmap(1, 0x4000n, 0x7fffn, 1), INVAL, 1],
    ['in a domain that is not there', bytesOf.unmap(2, 0x4000n, 0x7fffn), NOENT, 1],
  ])('%s', (_name, request, status, left) => {
    const { domains, ask } = mapped();
    expect(ask(request)).toBe(status);
    expect(domains.mappings).toBe(left);
  });

  test('when it is answered the device reaches nothing there, cached or not', () => {
    const { iommu, ports, ask } = mapped();
    const read = () => ports[0]?.readInto(0x5000, new Uint8Array(16));
    read();
    expect(ask(bytesOf.unmap(1, 0x4000n, 0x7fffn))).toBe(OK);
    expect(read).toThrow(DmaAbort);
    expect(iommu.faults.records).toMatchObject([{ reason: 'unmapped', iova: 0x5000, rid: first }]);
  });
});

describe('PROBE', () => {
  test('tells of the region where interrupts go, and zeros', () => {
    const { serve } = setUp();
    const reply = serve(bytesOf.probe(first), 68) ?? new Uint8Array();
    expect(reply).toHaveLength(68);
    const view = new DataView(reply.buffer);
    expect([view.getUint16(0, true), view.getUint16(2, true), view.getUint8(4)]).toEqual([
      1, 20, 1,
    ]);
    expect(view.getBigUint64(8, true)).toBe(0xfee0_0000n);
    expect(view.getBigUint64(16, true)).toBe(0xfeef_ffffn);
    expect(reply.subarray(24).every((byte) => byte === 0)).toBe(true);
  });

  test('of nobody says so, in the tail behind the properties', () => {
    const { serve } = setUp();
    const reply = serve(bytesOf.probe(NOBODY), 68);
    expect(reply?.subarray(0, 64).every((byte) => byte === 0)).toBe(true);
    expect(reply?.[64]).toBe(NOENT);
  });

  test('with too little room for properties gets none', () => {
    const { serve } = setUp();
    const reply = serve(bytesOf.probe(first), 30);
    expect(reply).toHaveLength(30);
    expect([...(reply ?? [])]).toEqual([...new Array(26).fill(0), INVAL, 0, 0, 0]);
  });
});

test('a request that cannot be read, or that nobody agreed on, goes back without a reply', () => {
  const { domains, serve } = setUp({ features: [] });
  expect(serve(new Uint8Array(0))).toBe(undefined);
  expect(serve(new Uint8Array([1, 0, 0]))).toBe(undefined);
  for (const type of [0, 6, 255]) {
    expect(serve(Uint8Array.from({ length: 80 }, (_, i) => (i === 0 ? type : 0)))).toBe(undefined);
  }
  expect(serve(bytesOf.attach(1, first), 3)).toBe(undefined);
  expect(serve(bytesOf.map(1, 0n, 0xfffn, 0n))).toBe(undefined);
  expect(serve(bytesOf.unmap(1, 0n, 0xfffn))).toBe(undefined);
  expect(serve(bytesOf.probe(first), 68)).toBe(undefined);
  expect(domains.domains).toBe(0);
});

test('one that is cut short but has a tail is invalid, and one with more than it needs is served', () => {
  const { serve } = setUp();
  expect(serve(bytesOf.attach(1, first).subarray(0, 19))?.[0]).toBe(INVAL);
  const longer = new Uint8Array(40);
  longer.set(bytesOf.attach(1, first));
  expect(serve(longer, 100)).toEqual(new Uint8Array(4));
});

describe('bypass', () => {
  test('is on at first, and decides what the unattached reach, not the attached', () => {
    const { domains, ports, ask } = setUp();
    const reach = (index: number) => ports[index]?.readInto(0x1000, new Uint8Array(1));
    expect(ask(bytesOf.attach(1, first))).toBe(OK);
    expect(domains.bypass).toBe(true);
    expect(() => reach(0)).toThrow(/unmapped/);
    reach(1);
    domains.bypass = false;
    expect(() => reach(0)).toThrow(/unmapped/);
    expect(() => reach(1)).toThrow(/blocked-domain/);
    domains.bypass = true;
    reach(1);
  });

  test.each([[true], [false]])('a reset leaves all endpoints to bypass %s', (bypass) => {
    const { domains, ports, ask } = setUp();
    for (const endpoint of [first, second]) expect(ask(bytesOf.attach(1, endpoint))).toBe(OK);
    expect(ask(bytesOf.map(1, 0x1000n, 0x1fffn, 0x5000n))).toBe(OK);
    const reach = (index: number) => ports[index]?.readInto(0x1000, new Uint8Array(1));
    reach(0);
    domains.bypass = bypass;
    domains.reset();
    expect(domains).toMatchObject({ domains: 0, mappings: 0, bypass });
    for (const index of [0, 1, 2]) {
      if (bypass) reach(index);
      else expect(() => reach(index)).toThrow(/blocked-domain/);
    }
    expect(ask(bytesOf.attach(1, first))).toBe(OK);
    expect(() => reach(0)).toThrow(/unmapped/);
  });
});

function fail(): never {
  throw new Error('expected an endpoint');
}
