import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { StorageBufferPool } from '../../../../src/storage/storage-buffers.ts';
import { CC, type Entry, HostDriver, PAGE, REGISTER, turns } from './host-driver.ts';
import { MemoryStorage } from './memory-storage.ts';

const u32 = fc.oneof(fc.nat(0xffff_ffff), fc.constantFrom(0, 1, 0xffff, 0x1_0000, 0xffff_ffff));
const address = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.nat(2 ** 22).map(BigInt),
  fc.nat(1023).map((page) => BigInt(page * PAGE)),
);

describe('a hostile host', () => {
  const buffers = new StorageBufferPool();

  it('never stops the process, never stalls it, and finds its queues working after it all', async () => {
    const entry: fc.Arbitrary<Entry> = fc.record({
      opcode: fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 2, 5, 8, 9, 12)),
      flags: fc.oneof(fc.constant(0), fc.constant(0x40), fc.nat(255)),
      nsid: fc.oneof(fc.constant(1), u32),
      prp1: address,
      prp2: address,
      dwords: fc.array(fc.oneof(fc.nat(300), u32), { minLength: 6, maxLength: 6 }),
    });
    const act = fc.oneof(
      { weight: 6, arbitrary: fc.record({ what: fc.constant('io' as const), entry }) },
      { weight: 3, arbitrary: fc.record({ what: fc.constant('admin' as const), entry }) },
      {
        weight: 2,
        arbitrary: fc.record({
          what: fc.constant('doorbell' as const),
          index: fc.nat(1023),
          value: u32,
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({
          what: fc.constant('register' as const),
          index: fc.nat(14),
          value: u32,
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ what: fc.constant('garbage' as const), seed: fc.nat() }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ what: fc.constantFrom('hold' as const, 'release' as const) }),
      },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 30 }), fc.boolean(), async (acts, shadow) => {
        const storage = new MemoryStorage(2 ** 20);
        const before = buffers.taken;
        const doorbells = shadow ? 'shadow' : 'message';
        const options = {
          namespaces: [{ storage }],
          doorbells,
          pollMicroseconds: 50,
          buffers,
        } as const;
        const driver = new HostDriver(options, 2 ** 20);
        driver.enable();
        await driver.createQueues(1);
        // Doorbells by the real registers: a host that knows of the buffers and lies besides.
        if (shadow) await driver.useShadow();
        for (const it of acts) {
          if (it.what === 'io' || it.what === 'admin') {
            const id = it.what === 'io' ? 1 : 0;
            driver.put(id, it.entry);
            driver.ring(id);
          } else if (it.what === 'doorbell') {
            driver.link.write(REGISTER.doorbells + 4 * it.index, it.value);
          } else if (it.what === 'register') {
            driver.link.write(4 * it.index, it.value);
          } else if (it.what === 'garbage') {
            let x = it.seed | 1;
            for (let at = 0; at < driver.memory.length; at += 97) {
              x = Math.imul(x, 1664525) + 1013904223;
              driver.memory[at] = x >>> 24;
            }
          } else {
            storage.held = it.what === 'hold';
          }
          await turns(2);
        }
        expect(driver.nvme.failed).toBeUndefined();
        storage.held = false;
        storage.release();
        driver.nvme.reset('function-level');
        driver.shadow = undefined;
        await turns(20);
        driver.memory.fill(0);
        driver.arrived.clear();
        driver.enable();
        await driver.createQueues(1);
        const read = { opcode: 2, nsid: 1, prp1: driver.pages(1) };
        expect((await driver.run(1, read)).status).toBe(0);
        // Its small buffers stay with it; all others are back.
        expect(buffers.taken - before).toBeLessThanOrEqual(32);
      }),
      { numRuns: 80 },
    );
  }, 60_000);

  it('that wraps its queues a hundred times in bursts gets each completion once', async () => {
    const storage = new MemoryStorage(64 * 512);
    const driver = new HostDriver({ namespaces: [{ storage }] });
    driver.enable();
    for (const id of [1, 2, 3]) await driver.createQueues(id, 8);
    const page = driver.pages(1);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 7 }), { maxLength: 40 }),
        async (bursts) => {
          for (const [n, burst] of bursts.entries()) {
            const id = 1 + (n % 3);
            const cids = Array.from({ length: burst }, () =>
              driver.put(id, { opcode: 2, nsid: 1, prp1: page }),
            );
            driver.ring(id);
            for (const cid of cids) expect((await driver.completed(id, cid)).status).toBe(0);
          }
          expect(driver.arrived.size).toBe(0);
        },
      ),
      { numRuns: 30 },
    );
    driver.link.write(REGISTER.cc, CC.off);
  });
});
