import { describe, expect, it } from 'vitest';
import { ManualClock } from '../../../../src/pci/index.ts';
import type { StorageRequest } from '../../../../src/storage/block-storage.ts';
import { StorageBufferPool } from '../../../../src/storage/storage-buffers.ts';
import { CC, HostDriver, PAGE, REGISTER, turns } from './host-driver.ts';
import { MemoryStorage } from './memory-storage.ts';

const MIB = 2 ** 20;

describe('a controller that has run out of memory for data', () => {
  it('still takes all admin commands, one at a time where the host asked for that', async () => {
    const buffers = { take: () => undefined, give: () => undefined };
    const driver = new HostDriver({
      namespaces: [{ storage: new MemoryStorage(512) }],
      doorbells: 'message',
      // Nothing else wakes it.
      clock: new ManualClock(),
      buffers,
    });
    driver.enable();
    await driver.createQueues(1);
    // Arbitration: bursts of one entry.
    expect((await driver.admin({ opcode: 9, dwords: [1, 0] })).status).toBe(0);
    driver.put(1, { opcode: 2, nsid: 1, prp1: driver.pages(1) });
    driver.ring(1);
    await turns(3);
    driver.put(0, { opcode: 0x0c });
    driver.put(0, { opcode: 0x0c });
    const cid = driver.put(0, { opcode: 6, prp1: driver.pages(1), dwords: [1] });
    driver.ring(0);
    expect((await driver.completed(0, cid)).status).toBe(0);
  });

  it('has not given it away for good: a small command keeps no large buffer', async () => {
    // Room for two buffers of 1 MiB.
    const buffers = new StorageBufferPool(2 * MIB);
    const storage = new MemoryStorage(4 * MIB);
    const driver = new HostDriver({ namespaces: [{ storage }], buffers }, 8 * MIB);
    driver.enable();
    await driver.createQueues(1);
    const data = driver.pages(256);
    const list = driver.pages(1);
    for (let n = 1; n < 256; n++) {
      driver.view.setBigUint64(list + 8 * (n - 1), BigInt(data + n * PAGE), true);
    }
    const large = { nsid: 1, prp1: data, prp2: list, dwords: [0, 0, 2047] };
    storage.held = true;
    const cids = [driver.put(1, { ...large, opcode: 2 })];
    driver.ring(1);
    await turns(5);
    // There is no smaller one left for this.
    cids.push(driver.put(1, { opcode: 2, nsid: 1, prp1: driver.pages(1) }));
    driver.ring(1);
    await turns(5);
    storage.held = false;
    storage.release();
    for (const cid of cids) expect((await driver.completed(1, cid)).status).toBe(0);
    // Compare takes both.
    expect((await driver.run(1, { ...large, opcode: 5 })).status).toBe(0);
  });
});

describe('a command that waits for memory', () => {
  it('sets one alarm, however often the controller looks', async () => {
    const clock = new ManualClock();
    const buffers = { take: () => undefined, give: () => undefined };
    const namespaces = [{ storage: new MemoryStorage(512) }];
    const driver = new HostDriver({ namespaces, doorbells: 'message', clock, buffers });
    driver.enable();
    for (let life = 0; life < 2; life++) {
      await driver.createQueues(1);
      driver.put(1, { opcode: 2, nsid: 1, prp1: driver.pages(1) });
      for (let n = 0; n < 20; n++) {
        driver.ring(1);
        await turns(1);
      }
      expect(clock.pending).toBe(1);
      clock.advance(1_000_000);
      await turns(3);
      expect(clock.pending).toBe(1);
      driver.link.write(REGISTER.cc, CC.off);
      driver.enable();
    }
  });
});

describe('a host that cuts its data into bytes', () => {
  it('does not hold up the event loop for all of its commands at once', async () => {
    const storage = new MemoryStorage(8 * 512);
    storage.content.fill(0x77);
    const driver = new HostDriver({ namespaces: [{ storage }] });
    driver.enable();
    await driver.createQueues(1);
    const data = driver.pages(1);
    const list = driver.pages(16);
    for (let n = 0; n < PAGE; n++) {
      // Backwards, so that no two of them are one run.
      driver.view.setBigUint64(list + 16 * n, BigInt(data + PAGE - 1 - n), true);
      driver.view.setUint32(list + 16 * n + 8, 1, true);
    }
    /** Of each turn of the event loop. */
    const accesses = [0];
    let immediate = setImmediate(function next() {
      accesses.push(0);
      immediate = setImmediate(next);
    });
    const { dma } = driver.link;
    for (const name of ['readBatch', 'writeBatch'] as const) {
      const run = dma[name].bind(dma);
      dma[name] = (batch, count) => {
        accesses[accesses.length - 1]! += count;
        return run(batch, count);
      };
    }
    for (const opcode of [2, 1]) {
      const last = BigInt(16 * PAGE) | (0x30n << 56n);
      const entry = { opcode, flags: 0x40, nsid: 1, prp1: list, prp2: last, dwords: [0, 0, 7] };
      const cids = Array.from({ length: 15 }, () => driver.put(1, entry));
      driver.ring(1);
      for (const cid of cids) expect((await driver.completed(1, cid)).status).toBe(0);
    }
    expect(driver.memory.subarray(data, data + PAGE).every((byte) => byte === 0x77)).toBe(true);
    clearImmediate(immediate);
    expect(accesses.reduce((sum, count) => sum + count)).toBeGreaterThan(2 * 15 * PAGE);
    expect(Math.max(...accesses)).toBeLessThan(8 * PAGE);
  });
});

describe('a host that does not wait', () => {
  it('has a bounded number of admin commands under way', async () => {
    const storage = new MemoryStorage(512);
    const driver = new HostDriver({ namespaces: [{ storage }], doorbells: 'message' });
    driver.enable();
    storage.held = true;
    for (let n = 0; n < 3000; n++) {
      // Write protection on, which flushes, and off again.
      driver.put(0, { opcode: 9, nsid: 1, dwords: [0x84, 1] });
      driver.put(0, { opcode: 9, nsid: 1, dwords: [0x84, 0] });
      driver.ring(0);
      await turns(1);
      driver.reapAll();
      driver.arrived.clear();
    }
    expect(storage.underWay).toBeGreaterThan(500);
    expect(storage.underWay).toBeLessThan(1200);
    storage.held = false;
    storage.release();
    await turns(20);
    driver.nvme.reset('function-level');
    driver.enable();
    expect((await driver.admin({ opcode: 9, nsid: 1, dwords: [0x84, 0] })).status).toBe(0);
  });

  it('until CSTS.RDY is heard when the controller is ready', async () => {
    const storage = new MemoryStorage(512);
    const driver = new HostDriver({ namespaces: [{ storage }], doorbells: 'message' });
    driver.enable();
    await driver.createQueues(1);
    storage.held = true;
    driver.put(1, { opcode: 2, nsid: 1, prp1: driver.pages(1) });
    driver.ring(1);
    await turns(3);
    driver.link.write(REGISTER.cc, CC.off);
    driver.enable();
    expect(driver.csts & 1).toBe(0);
    const cid = driver.put(0, { opcode: 6, prp1: driver.pages(1), dwords: [1] });
    driver.ring(0);
    await turns(3);
    storage.release();
    expect((await driver.completed(0, cid)).status).toBe(0);
  });
});

describe('shadow doorbells that cannot be told where to ring', () => {
  it('set CSTS.CFS, for the host would wait for ever', async () => {
    const driver = new HostDriver({
      namespaces: [{ storage: new MemoryStorage(512) }],
      pollMicroseconds: 0,
    });
    driver.enable();
    await driver.createQueues(1);
    await driver.useShadow();
    await turns(5);
    const { events } = driver.shadow!;
    const { dma } = driver.link;
    const write = dma.writeFrom.bind(dma);
    // The host takes the buffer away.
    dma.writeFrom = (iova, bytes) => write(iova === events ? 0x7f_0000_0000 : iova, bytes);
    driver.put(1, { opcode: 2, nsid: 1, prp1: driver.pages(1) });
    driver.ring(1);
    await turns(10);
    expect(driver.csts & 2).toBe(2);
    expect(driver.link.faults).toHaveLength(1);
    expect(driver.nvme.failed).toBeUndefined();
  });
});

describe('a turn that is broken off by a bug', () => {
  it('leaves nothing behind that a reset does not clear up', async () => {
    class Broken extends MemoryStorage {
      left = 3;
      override submit(request: StorageRequest): void {
        if (--this.left === 0) throw new Error('a bug');
        super.submit(request);
      }
    }
    const storage = new Broken(64 * 512);
    for (let n = 0; n < 64; n++) storage.content.fill(n, n * 512, (n + 1) * 512);
    const driver = new HostDriver({ namespaces: [{ storage }], doorbells: 'message' });
    driver.enable();
    await driver.createQueues(1);
    const page = driver.pages(16);
    const reads = (count: number) => {
      const cids = Array.from({ length: count }, (_, n) =>
        driver.put(1, { opcode: 2, nsid: 1, prp1: page + n * PAGE, dwords: [n, 0, 0] }),
      );
      driver.ring(1);
      return cids;
    };
    reads(5);
    await turns(5);
    expect(driver.nvme.failed?.message).toBe('a bug');
    driver.nvme.reset('function-level');
    driver.enable();
    expect(driver.csts & 1).toBe(1);
    await driver.createQueues(1);
    for (const cid of reads(15)) expect((await driver.completed(1, cid)).status).toBe(0);
    expect(Array.from({ length: 15 }, (_, n) => driver.memory[page + n * PAGE + 511])).toEqual(
      Array.from({ length: 15 }, (_, n) => n),
    );
  });
});
