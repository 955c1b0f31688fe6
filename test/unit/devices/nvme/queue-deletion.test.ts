import { describe, expect, it } from 'vitest';
import { ManualClock } from '../../../../src/pci/index.ts';
import { HostDriver, turns } from './host-driver.ts';
import { MemoryStorage } from './memory-storage.ts';

/** On a clock that stands still, what is held for a batch stays held. */
async function started(entries: number) {
  const storage = new MemoryStorage(64 * 512);
  const clock = new ManualClock();
  const driver = new HostDriver({ namespaces: [{ storage }], doorbells: 'message', clock });
  driver.enable();
  await driver.createQueues(1, entries);
  const page = driver.pages(1);
  const reads = async (count: number) => {
    const cids = Array.from({ length: count }, () =>
      driver.put(1, { opcode: 2, nsid: 1, prp1: page }),
    );
    driver.ring(1);
    await turns(3);
    return cids;
  };
  return { driver, storage, clock, reads };
}

describe('deletion of a submission queue', () => {
  /** The controller expects a batch of several; two commands are done and held. */
  async function withTwoHeld() {
    const { driver, storage, clock, reads } = await started(16);
    storage.held = true;
    const batch = await reads(8);
    storage.release();
    for (const cid of batch) expect((await driver.completed(1, cid)).status).toBe(0);
    storage.held = false;
    const cids = await reads(2);
    driver.reapAll();
    expect(driver.arrived.size).toBe(0);
    return { driver, clock, cids };
  }

  it('is answered after all its completions are in the completion queue, held ones too', async () => {
    const { driver, cids } = await withTwoHeld();
    const interrupts = driver.link.interrupts.messages.length;
    const deletion = driver.put(0, { opcode: 0, dwords: [1] });
    driver.ring(0);
    while (driver.reap(0) === 0) await turns(1);
    expect((await driver.completed(0, deletion)).status).toBe(0);
    expect(driver.reap(1)).toBe(2);
    for (const cid of cids) expect((await driver.completed(1, cid)).status).toBe(0);
    expect(driver.link.interrupts.messages.slice(interrupts)).toContain(1);
  });

  it('loses none to the deletion of the completion queue right behind it', async () => {
    const { driver, cids } = await withTwoHeld();
    const deletions = [
      driver.put(0, { opcode: 0, dwords: [1] }),
      driver.put(0, { opcode: 4, dwords: [1] }),
    ];
    driver.ring(0);
    for (const cid of deletions) expect((await driver.completed(0, cid)).status).toBe(0);
    for (const cid of cids) expect((await driver.completed(1, cid)).status).toBe(0);
  });

  it('waits for no host that leaves its completion queue full, and drops what has no room', async () => {
    const { driver, clock, reads } = await started(4);
    const posted = await reads(3);
    clock.advance(1e6);
    await reads(3);
    const deletion = driver.put(0, { opcode: 0, dwords: [1] });
    driver.ring(0);
    for (let turn = 0; turn < 20 && driver.reap(0) === 0; turn++) await turns(1);
    expect((await driver.completed(0, deletion)).status).toBe(0);
    for (const cid of posted) expect((await driver.completed(1, cid)).status).toBe(0);
    // A queue that comes after it under the same identifier hears nothing of it.
    const { base } = driver.submission[1]!;
    const made = { opcode: 1, prp1: base, dwords: [0x0003_0001, (1 << 16) | 1] };
    expect((await driver.admin(made)).status).toBe(0);
    clock.advance(1e6);
    await turns(5);
    driver.reapAll();
    expect(driver.arrived.size).toBe(0);
  });
});
