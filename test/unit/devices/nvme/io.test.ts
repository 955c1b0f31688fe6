import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { Status } from '../../../../src/devices/nvme/status.ts';
import { HostDriver, PAGE, turns } from './host-driver.ts';
import { MemoryStorage } from './memory-storage.ts';

const BLOCKS = 256;
const FUA = 1 << 30;

async function started(options: { readOnly?: boolean; blockBytes?: 512 | 4096 } = {}) {
  const { blockBytes = 512, readOnly = false } = options;
  const storage = new MemoryStorage(BLOCKS * blockBytes, { readOnly });
  storage.content.set(randomBytes(storage.bytes));
  const second = new MemoryStorage(16 * 512);
  const driver = new HostDriver({ namespaces: [{ storage, blockBytes }, { storage: second }] });
  driver.enable();
  await driver.createQueues(1);
  const page = driver.pages(8);
  const io = (opcode: number, slba: number | bigint, blocks: number, more = {}) => {
    const start = BigInt(slba);
    const dwords = [Number(start & 0xffff_ffffn), Number(start >> 32n), blocks - 1];
    return driver.run(1, { opcode, nsid: 1, prp1: page, prp2: page + PAGE, dwords, ...more });
  };
  return { storage, second, driver, page, io };
}

describe('I/O commands', () => {
  it('reads and writes what the storage holds', async () => {
    const { storage, driver, page, io } = await started();
    expect(await io(2, 3, 16)).toMatchObject({ status: 0, sqid: 1 });
    const got = driver.memory.subarray(page, page + 16 * 512);
    expect(Buffer.compare(got, storage.content.subarray(3 * 512, 19 * 512))).toBe(0);
    const bytes = randomBytes(5 * 512);
    driver.memory.set(bytes, page);
    expect((await io(1, 100, 5)).status).toBe(0);
    expect(Buffer.compare(storage.content.subarray(100 * 512, 105 * 512), bytes)).toBe(0);
    expect(driver.nvme.admin.health).toMatchObject({
      readCommands: 1,
      writeCommands: 1,
      bytesRead: 16 * 512,
      bytesWritten: 5 * 512,
    });
  });

  it('has blocks of 4 KiB', async () => {
    const { storage, driver, page, io } = await started({ blockBytes: 4096 });
    expect((await io(2, BLOCKS - 2, 2)).status).toBe(0);
    const got = driver.memory.subarray(page, page + 8192);
    expect(Buffer.compare(got, storage.content.subarray(-8192))).toBe(0);
  });

  it('makes a write durable with FUA, and each where the write cache is off', async () => {
    const { storage, driver, io } = await started();
    await io(1, 0, 1);
    await io(1, 0, 1, { dwords: [0, 0, FUA] });
    await driver.admin({ opcode: 9, dwords: [6, 0] });
    await io(1, 0, 1);
    await io(8, 4, 2);
    expect(storage.log).toEqual([
      'write 0 512',
      'write 0 512 durable',
      ...storage.log.slice(2, -3),
      'write 0 512 durable',
      'write-zeroes 2048 1024',
      'flush 0 0',
    ]);
  });

  it('flushes one namespace, or all of them', async () => {
    const { storage, second, driver } = await started();
    expect((await driver.run(1, { opcode: 0, nsid: 2 })).status).toBe(0);
    expect([storage.log, second.log]).toEqual([[], ['flush 0 0']]);
    expect((await driver.run(1, { opcode: 0, nsid: 0xffff_ffff })).status).toBe(0);
    expect([storage.log, second.log]).toEqual([['flush 0 0'], ['flush 0 0', 'flush 0 0']]);
  });

  it('writes zeroes, deallocates ranges, and moves no data for it', async () => {
    const { storage, driver, page, io } = await started();
    const expected = storage.content.slice();
    expect((await io(8, 10, 200, { dwords: [10, 0, 199 | (1 << 25)] })).status).toBe(0);
    expected.fill(0, 10 * 512, 210 * 512);
    expect(Buffer.compare(storage.content, expected)).toBe(0);
    const ranges = [
      [2, 1],
      [0, 0],
      [250, 6],
    ] as const;
    for (const [n, [start, blocks]] of ranges.entries()) {
      driver.view.setUint32(page + 16 * n + 4, blocks, true);
      driver.view.setBigUint64(page + 16 * n + 8, BigInt(start), true);
    }
    expect((await driver.run(1, { opcode: 9, nsid: 1, prp1: page, dwords: [2, 4] })).status).toBe(
      0,
    );
    expected.fill(0, 2 * 512, 3 * 512).fill(0, 250 * 512, 256 * 512);
    expect(Buffer.compare(storage.content, expected)).toBe(0);
    expect(storage.log.slice(1)).toEqual(['discard 1024 512', 'discard 128000 3072']);
  });

  it('deallocates nothing where one range leaves the namespace', async () => {
    const { storage, driver, page } = await started();
    driver.view.setUint32(page + 4, 1, true);
    driver.view.setUint32(page + 20, 2, true);
    driver.view.setBigUint64(page + 24, BigInt(BLOCKS - 1), true);
    const dsm = { opcode: 9, nsid: 1, prp1: page, dwords: [1, 4] };
    expect((await driver.run(1, dsm)).status).toBe(Status.lbaOutOfRange);
    driver.view.setBigUint64(page + 24, 2n ** 64n - 1n, true);
    expect((await driver.run(1, dsm)).status).toBe(Status.lbaOutOfRange);
    expect(storage.log).toEqual([]);
  });

  it('compares, and verifies', async () => {
    const { storage, driver, page, io } = await started();
    driver.memory.set(storage.content.subarray(0, 4096), page);
    expect((await io(5, 0, 8)).status).toBe(0);
    driver.memory[page + 4095]! ^= 1;
    expect((await io(5, 0, 8)).status).toBe(Status.compareFailure);
    expect((await io(12, 0, BLOCKS)).status).toBe(0);
    storage.fails = { errno: 5 };
    expect((await io(12, 0, 1)).status).toBe(Status.unrecoveredRead);
    expect((await io(5, 0, 1)).status).toBe(Status.unrecoveredRead);
  });

  it('gives each bad command its status, with Do Not Retry, and an entry in the error log', async () => {
    const { storage, driver, io } = await started();
    const status = async (...args: Parameters<typeof io>) => (await io(...args)).status;
    expect(await status(0x7f, 0, 1)).toBe(Status.invalidOpcode);
    expect(await status(2, 0, 1, { flags: 1 })).toBe(Status.invalidField);
    expect(await status(2, 0, 1, { flags: 0xc0 })).toBe(Status.invalidField);
    for (const nsid of [0, 3, 0xffff_ffff]) {
      expect(await status(2, 0, 1, { nsid })).toBe(Status.invalidNamespaceOrFormat);
    }
    expect(await status(2, 0, 1, { dwords: [0, 0, 1 << 26] })).toBe(Status.invalidField);
    for (const opcode of [1, 2, 5, 8, 12]) {
      expect(await status(opcode, BLOCKS, 1)).toBe(Status.lbaOutOfRange);
      expect(await status(opcode, BLOCKS - 1, 2)).toBe(Status.lbaOutOfRange);
      expect(await status(opcode, 2n ** 64n - 1n, 1)).toBe(Status.lbaOutOfRange);
      expect(await status(opcode, 2n ** 55n, 2)).toBe(Status.lbaOutOfRange);
    }
    expect(await io(2, BLOCKS, 1)).toMatchObject({ doNotRetry: true, more: true });
    expect(storage.log).toEqual([]);
    expect(driver.nvme.admin.errorLog.count).toBe(28n);
  });

  it('refuses more than MDTS', async () => {
    const storage = new MemoryStorage(4 * 2 ** 20);
    const driver = new HostDriver({ namespaces: [{ storage }] });
    driver.enable();
    await driver.createQueues(1);
    for (const opcode of [1, 2, 5]) {
      const entry = { opcode, nsid: 1, prp1: PAGE, prp2: PAGE, dwords: [0, 0, 2048] };
      expect((await driver.run(1, entry)).status).toBe(Status.invalidField);
    }
    expect((await driver.run(1, { opcode: 12, nsid: 1, dwords: [0, 0, 8191] })).status).toBe(0);
  });

  it('alters nothing that is read-only', async () => {
    const { storage, driver, page, io } = await started({ readOnly: true });
    expect((await io(1, 0, 1)).status).toBe(Status.writeToReadOnlyRange);
    expect((await io(8, 0, 1)).status).toBe(Status.writeToReadOnlyRange);
    const dsm = { opcode: 9, nsid: 1, prp1: page, dwords: [0, 4] };
    expect((await driver.run(1, dsm)).status).toBe(Status.writeToReadOnlyRange);
    expect((await io(2, 0, 1)).status).toBe(0);
    driver.nvme.namespaces[0]!.writeProtected = true;
    expect((await io(1, 0, 1)).status).toBe(Status.namespaceWriteProtected);
    expect(storage.log).toEqual(['read 0 512']);
  });

  it('says what the disk said: unrecovered, a write fault, no room', async () => {
    const { storage, driver, io } = await started();
    storage.fails = { errno: 5 };
    expect(await io(2, 0, 1)).toMatchObject({ status: Status.unrecoveredRead, doNotRetry: false });
    expect((await io(1, 0, 1)).status).toBe(Status.writeFault);
    storage.fails = { errno: 28 };
    expect((await io(1, 0, 1)).status).toBe(Status.capacityExceeded);
    expect(driver.nvme.admin.health.mediaErrors).toBe(2);
  });

  it('completes in the order of the disk, and holds what a full completion queue has no room for', async () => {
    const storage = new MemoryStorage(64 * 512);
    const driver = new HostDriver({ namespaces: [{ storage }], coalescing: false });
    driver.enable();
    const entries = 4;
    await driver.createQueues(1, entries);
    const page = driver.pages(1);
    const cids: number[] = [];
    for (let round = 0; round < 3; round++) {
      for (let n = 0; n < 3; n++) cids.push(driver.put(1, { opcode: 2, nsid: 1, prp1: page }));
      driver.ring(1);
      await turns(4);
    }
    expect(driver.reap(1, false)).toBe(3);
    await turns(4);
    expect(driver.reap(1, false)).toBe(0);
    driver.link.write(0x1000 + 12, driver.completion[1]!.at);
    for (const cid of cids) expect((await driver.completed(1, cid)).status).toBe(0);
  });

  it('works when memory is scarce, in the order in which commands came', async () => {
    const storage = new MemoryStorage(2 ** 20);
    storage.content.set(randomBytes(2 ** 20));
    const pool = new Uint8Array(2 ** 17);
    let out = 0;
    const buffers = {
      take: (bytes: number) => {
        if (out > 0) return undefined;
        out++;
        return pool.subarray(0, bytes);
      },
      give: () => void out--,
    };
    const driver = new HostDriver({ namespaces: [{ storage }], buffers });
    driver.enable();
    await driver.createQueues(1);
    const data = driver.pages(64);
    const cids = Array.from({ length: 8 }, (_, n) =>
      driver.put(1, {
        opcode: 2,
        nsid: 1,
        prp1: data + n * 8192,
        prp2: data + n * 8192 + PAGE,
        dwords: [n * 16, 0, 15],
      }),
    );
    driver.ring(1);
    for (const cid of cids) expect((await driver.completed(1, cid)).status).toBe(0);
    const got = driver.memory.subarray(data, data + 65536);
    expect(Buffer.compare(got, storage.content.subarray(0, 65536))).toBe(0);
    expect(out).toBe(0);
  });
});
