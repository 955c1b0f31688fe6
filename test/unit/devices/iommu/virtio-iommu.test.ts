/** The device as its driver sees it: configuration, two queues, resets. */
import { describe, expect, test } from 'vitest';
import { VirtioIommu } from '../../../../src/devices/iommu/virtio-iommu.ts';
import { IdentityDomain } from '../../../../src/iommu/domain.ts';
import { Iommu } from '../../../../src/iommu/iommu.ts';
import { keySlot } from '../../../../src/keys/key-slot.ts';
import { vmId } from '../../../../src/keys/vm-id.ts';
import { ManualClock } from '../../../../src/pci/index.ts';
import { parseRequesterId } from '../../../../src/pci/requester-id.ts';
import { FourSlots, nativeMemory } from '../../iommu/bench-memory.ts';
import { EVENT_IDX, NEEDS_RESET, VERSION_1, VirtioBench } from '../../virtio/bench.ts';
import { DriverQueue } from '../../virtio/driver-queue.ts';
import { bytesOf, ENDPOINTS, FEATURES, MEMORY_BYTES } from './iommu-bench.ts';

const REQUESTS = 0;
const EVENTS = 1;
const CONFIG_BAR = 1;
const BYPASS = 36;
const [first = 0] = ENDPOINTS;

/** A driver that has come to DRIVER_OK, and functions behind the device. */
function setUp(options: { features?: readonly number[]; events?: number; size?: number } = {}) {
  const { features = FEATURES, events = 4, size = 16 } = options;
  const iommu = new Iommu(new FourSlots());
  const clock = new ManualClock();
  const device = new VirtioIommu({ iommu, clock });
  const native = nativeMemory(MEMORY_BYTES);
  const ports = ENDPOINTS.map((rid) => {
    const domain = new IdentityDomain(iommu.newDomainId());
    iommu.table.set(rid, { domain, vm: vmId(1), slot: keySlot(1), rights: 'read-write' });
    device.addEndpoint(rid);
    const port = iommu.port(rid, native.memory);
    port.busMaster = true;
    return port;
  });
  const bench = new VirtioBench(device, { memoryBytes: 2 ** 18 });
  const begin = () => {
    const chosen = [VERSION_1, EVENT_IDX, ...features];
    const offered = bench.negotiate(chosen);
    const requests = new DriverQueue(bench, { size, features: chosen, index: REQUESTS });
    const base = 0x10000;
    const eventQueue = new DriverQueue(bench, { size: 8, features: chosen, index: EVENTS, base });
    bench.ready();
    for (let i = 0; i < events; i++) {
      eventQueue.add([], [{ address: 0x20000 + 64 * i, length: 24 }]);
    }
    eventQueue.kick();
    return { offered, requests, eventQueue };
  };
  const driver = begin();
  /** Adds a request, without telling; where it lies is the caller's. */
  const add = (bytes: Uint8Array, writable: number, at: number) => {
    bench.memory.set(bytes, at);
    bench.memory.fill(0xee, at + 512, at + 512 + writable);
    driver.requests.add(
      [{ address: at, length: bytes.length }],
      [{ address: at + 512, length: writable }],
    );
  };
  /** What came back: the length that was reported, and the bytes. */
  const ask = (bytes: Uint8Array, writable = 4) => {
    add(bytes, writable, 0x30000);
    driver.requests.kick();
    const [done] = driver.requests.reap();
    return { length: done?.length, reply: [...bench.memory.subarray(0x30200, 0x30200 + writable)] };
  };
  const bypassByte = () => bench.read(BYPASS, 1, CONFIG_BAR);
  const reach = (index: number) => ports[index]?.readInto(0x1000, new Uint8Array(4));
  const reports = () => {
    clock.advance(0);
    return driver.eventQueue.reap().map(({ pending, length }) => {
      const [buffer = { address: 0 }] = pending.writable;
      const view = new DataView(bench.memory.buffer, buffer.address, 24);
      return {
        length,
        reason: view.getUint8(0),
        flags: view.getUint32(4, true),
        endpoint: view.getUint32(8, true),
        address: view.getBigUint64(16, true),
      };
    });
  };
  return {
    iommu,
    device,
    bench,
    ports,
    driver,
    begin,
    add,
    ask,
    bypassByte,
    reach,
    reports,
    clock,
  };
}

describe('configuration', () => {
  test('names the device, its features and its limits', () => {
    const { device, bench, driver } = setUp();
    expect(device.identity).toMatchObject({ vendor: 0x1af4, device: 0x1040 + 23 });
    const bits = FEATURES.reduce((set, bit) => set | (1 << bit), 0);
    expect(Number(driver.offered & 0xff_ffffn)).toBe(bits);
    const wide = (at: number) => bench.readWide(at, 8, CONFIG_BAR);
    expect([wide(0), wide(8), wide(16)]).toEqual([0x1000n, 0n, 2n ** 48n - 1n]);
    expect([bench.read(24, 4, CONFIG_BAR), bench.read(28, 4, CONFIG_BAR)]).toEqual([0, 0xffff]);
    expect(bench.read(32, 4, CONFIG_BAR)).toBe(64);
  });

  test('bypass is 1 at first, takes 0 and 1, and never shows anything else', () => {
    const { bench, bypassByte, reach } = setUp();
    const write = (value: number) => bench.write(BYPASS, value, 1, CONFIG_BAR);
    expect(bypassByte()).toBe(1);
    write(0);
    expect(bypassByte()).toBe(0);
    expect(() => reach(0)).toThrow(/blocked-domain/);
    for (const value of [2, 255, 254]) {
      write(value);
      expect(bypassByte()).toBe(0);
    }
    write(1);
    write(3);
    expect(bypassByte()).toBe(1);
    reach(0);
  });

  test('bypass is read-only to a driver that did not accept it', () => {
    const { bench, bypassByte, reach } = setUp({ features: [2] });
    bench.write(BYPASS, 0, 1, CONFIG_BAR);
    expect(bypassByte()).toBe(1);
    reach(0);
  });

  test.each<['driver' | 'function-level' | 'power-state' | 'device' | 'connection-lost', number]>([
    ['driver', 0],
    ['function-level', 0],
    ['power-state', 0],
    ['device', 1],
    ['connection-lost', 1],
  ])('a reset by %s ends all domains and leaves bypass at %i', (cause, bypass) => {
    const { device, bench, ask, bypassByte, reach } = setUp();
    bench.write(BYPASS, 0, 1, CONFIG_BAR);
    expect(ask(bytesOf.attach(1, first)).reply[0]).toBe(0);
    expect(ask(bytesOf.map(1, 0x1000n, 0x1fffn, 0x5000n)).reply[0]).toBe(0);
    reach(0);
    if (cause === 'driver') bench.status = 0;
    else device.reset(cause);
    expect(bypassByte()).toBe(bypass);
    expect(device.domains).toMatchObject({ domains: 0, mappings: 0, bypass: bypass === 1 });
    for (const index of [0, 1]) {
      if (bypass === 1) reach(index);
      else expect(() => reach(index)).toThrow(/blocked-domain/);
    }
  });
});

describe('the request queue', () => {
  test('a request comes back with its status, and is done by then', () => {
    const { ask, reach, device } = setUp();
    expect(ask(bytesOf.attach(1, first))).toEqual({ length: 4, reply: [0, 0, 0, 0] });
    expect(() => reach(0)).toThrow(/unmapped/);
    expect(ask(bytesOf.map(1, 0x1000n, 0x1fffn, 0x5000n)).reply).toEqual([0, 0, 0, 0]);
    reach(0);
    expect(ask(bytesOf.unmap(1, 0x1000n, 0x1fffn)).reply).toEqual([0, 0, 0, 0]);
    expect(() => reach(0)).toThrow(/unmapped/);
    expect(device.counters).toMatchObject({ requests: 3, unanswered: 0 });
  });

  test('a PROBE comes back whole', () => {
    const { ask } = setUp();
    const { length, reply } = ask(bytesOf.probe(first), 68);
    expect(length).toBe(68);
    expect(reply.slice(0, 5)).toEqual([1, 0, 20, 0, 1]);
    expect(reply.slice(64)).toEqual([0, 0, 0, 0]);
  });

  test('what nobody knows comes back as it was, with length 0', () => {
    const { ask, device } = setUp();
    expect(ask(new Uint8Array([9, 0, 0, 0, 1, 2, 3, 4]))).toEqual({
      length: 0,
      reply: [0xee, 0xee, 0xee, 0xee],
    });
    expect(device.counters).toMatchObject({ requests: 1, unanswered: 1 });
  });

  test('a queue full of requests is served at one kick, in order', () => {
    const { bench, driver, add, ask, device } = setUp({ size: 16 });
    ask(bytesOf.attach(1, first));
    const mapAt = (page: number) =>
      bytesOf.map(1, BigInt(page) << 12n, (BigInt(page) << 12n) + 0xfffn, 0n);
    // Eight chains of two descriptors fill it. The last three overlap those before.
    for (const [n, page] of [0, 1, 2, 3, 4, 2, 3, 4].entries())
      add(mapAt(page), 4, 0x30000 + n * 1024);
    driver.requests.kick();
    const status = (n: number) => bench.memory[0x30200 + n * 1024];
    expect([0, 1, 2, 3, 4, 5, 6, 7].map(status)).toEqual([0, 0, 0, 0, 0, 4, 4, 4]);
    expect(driver.requests.reap()).toHaveLength(8);
    expect(device.domains.mappings).toBe(5);
    expect(ask(bytesOf.unmap(1, 0n, 0xffffn)).reply[0]).toBe(0);
  });

  test('a driver that never stops adding holds up nobody else', async () => {
    const { bench, driver, ask, device } = setUp({ size: 8 });
    ask(bytesOf.attach(1, first));
    const detach = bytesOf.detach(7, first);
    bench.memory.set(detach, 0x30000);
    const buffers = [
      [{ address: 0x30000, length: detach.length }],
      [{ address: 0x30200, length: 4 }],
    ] as const;
    // Another CPU: whenever the device looks at memory, what has come back is there again.
    let stop = false;
    bench.between = () => {
      driver.requests.reap();
      if (!stop && driver.requests.free >= 2) driver.requests.add(...buffers);
    };
    driver.requests.add(...buffers);
    driver.requests.kick();
    const before = device.counters.requests;
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    expect(device.counters.requests).toBeGreaterThan(before);
    stop = true;
    for (let turns = 0; driver.requests.pending.size > 0 && turns < 100; turns++) {
      await new Promise((resolve) => setImmediate(resolve));
      driver.requests.reap();
    }
    expect(driver.requests.pending.size).toBe(0);
    expect(bench.status & NEEDS_RESET).toBe(0);
  });

  test('a buffer that cannot be reached makes it ask for a reset, after which it serves again', () => {
    const { bench, driver, begin } = setUp();
    driver.requests.add([{ address: 2 ** 40, length: 20 }], [{ address: 0x30200, length: 4 }]);
    driver.requests.kick();
    expect(bench.status & NEEDS_RESET).toBe(NEEDS_RESET);
    const { requests } = begin();
    bench.memory.set(bytesOf.attach(1, first), 0x30000);
    requests.add([{ address: 0x30000, length: 20 }], [{ address: 0x30200, length: 4 }]);
    requests.kick();
    expect(requests.reap()).toMatchObject([{ length: 4 }]);
    expect(bench.memory[0x30200]).toBe(0);
  });
});

describe('the event queue', () => {
  test('tells of each fault of a function behind it: why, who, how and where', () => {
    const { bench, ask, ports, reports, iommu, device } = setUp();
    ask(bytesOf.attach(1, first));
    expect(() => ports[0]?.readInto(0x1234, new Uint8Array(4))).toThrow();
    expect(() => ports[0]?.writeFrom(2n ** 64n - 8n, new Uint8Array(4))).toThrow();
    bench.write(BYPASS, 0, 1, CONFIG_BAR);
    expect(() => ports[1]?.writeFrom(0x5678, new Uint8Array(4))).toThrow();
    expect(reports()).toEqual([
      { length: 24, reason: 2, flags: 0x101, endpoint: first, address: 0x1234n },
      { length: 24, reason: 2, flags: 0x102, endpoint: first, address: 2n ** 64n - 8n },
      { length: 24, reason: 1, flags: 0x102, endpoint: ENDPOINTS[1], address: 0x5678n },
    ]);
    expect(iommu.faults.total).toBe(3);
    expect(device.counters).toMatchObject({ reports: 3, reportsDropped: 0 });
  });

  test('drops what finds no buffer, and counts it', () => {
    const { ask, reach, reports, device, iommu } = setUp({ events: 2 });
    ask(bytesOf.attach(1, first));
    for (let i = 0; i < 100; i++) expect(() => reach(0)).toThrow();
    expect(reports()).toHaveLength(2);
    expect(device.counters).toMatchObject({ reports: 2, reportsDropped: 98 });
    expect(iommu.faults.total).toBe(100);
    expect(() => reach(0)).toThrow();
    expect(reports()).toHaveLength(0);
    expect(device.counters.reportsDropped).toBe(99);
  });

  test('looks for a buffer once, however many reports find none', () => {
    const { bench, ask, reach, reports, device } = setUp({ events: 0 });
    ask(bytesOf.attach(1, first));
    let accesses = 0;
    const accessesFor = (faults: number) => {
      for (let i = 0; i < faults; i++) expect(() => reach(0)).toThrow();
      accesses = 0;
      reports();
      return accesses;
    };
    bench.between = () => accesses++;
    const one = accessesFor(1);
    expect(accessesFor(64)).toBe(one);
    expect(device.counters).toMatchObject({ reports: 0, reportsDropped: 65 });
  });

  test('does not split a report over buffers that are too small', () => {
    const { ask, driver, reach, reports, device } = setUp({ events: 0 });
    driver.eventQueue.add([], [{ address: 0x20000, length: 23 }]);
    driver.eventQueue.add([], [{ address: 0x20100, length: 24 }]);
    ask(bytesOf.attach(1, first));
    expect(() => reach(0)).toThrow();
    expect(reports()).toMatchObject([{ length: 0 }]);
    expect(() => reach(0)).toThrow();
    expect(reports()).toMatchObject([{ length: 24, reason: 2 }]);
    expect(device.counters).toMatchObject({ reports: 1, reportsDropped: 1 });
  });

  test('says nothing of functions elsewhere, nor after a reset', () => {
    const { iommu, bench, ask, reach, reports, driver, device } = setUp();
    const other = parseRequesterId('00:10.0');
    const record = {
      rid: other,
      direction: 'read',
      iova: 0,
      length: 1,
      reason: 'unmapped',
    } as const;
    iommu.faults.record({
      ...record,
      domain: undefined,
      vm: undefined,
      slot: undefined,
      generation: undefined,
    });
    expect(reports()).toEqual([]);
    ask(bytesOf.attach(1, first));
    expect(() => reach(0)).toThrow();
    bench.status = 0;
    expect(reports()).toEqual([]);
    expect(driver.eventQueue.pending.size).toBe(4);
    expect(device.counters).toMatchObject({ reports: 0, reportsDropped: 0 });
  });

  test('a buffer that cannot be reached makes it ask for a reset', () => {
    const { bench, ask, driver, reach, reports } = setUp({ events: 0 });
    driver.eventQueue.add([], [{ address: 2 ** 40, length: 24 }]);
    ask(bytesOf.attach(1, first));
    expect(() => reach(0)).toThrow();
    reports();
    expect(bench.status & NEEDS_RESET).toBe(NEEDS_RESET);
  });
});
