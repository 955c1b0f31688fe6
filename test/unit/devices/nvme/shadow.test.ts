import { describe, expect, it } from 'vitest';
import { Status } from '../../../../src/devices/nvme/status.ts';
import { ManualClock } from '../../../../src/pci/index.ts';
import { HostDriver, PAGE, turns } from './host-driver.ts';
import { MemoryStorage } from './memory-storage.ts';

async function started(pollMicroseconds: number) {
  const storage = new MemoryStorage(64 * 512);
  const driver = new HostDriver({
    namespaces: [{ storage }],
    doorbells: 'shadow',
    pollMicroseconds,
  });
  driver.enable();
  await driver.createQueues(1, 8);
  return { storage, driver, page: driver.pages(1) };
}

describe('shadow doorbells', () => {
  it('spare the host its rings as long as the controller polls', async () => {
    const { driver, page } = await started(1e9);
    expect((await driver.useShadow()).status).toBe(0);
    const before = driver.rings;
    for (let n = 0; n < 100; n++) {
      expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
    }
    // The first one wakes it.
    expect(driver.rings - before).toBeLessThanOrEqual(2);
    driver.nvme.reset('device');
  });

  it('ring at the first submission after it has gone to sleep, and lose none', async () => {
    const { driver, page } = await started(0);
    expect((await driver.useShadow()).status).toBe(0);
    for (let n = 0; n < 50; n++) {
      await turns(10);
      const before = driver.rings;
      expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
      expect(driver.rings).toBeGreaterThan(before);
    }
  });

  it('spare the rings again after a sleep', async () => {
    const clock = new ManualClock();
    const driver = new HostDriver({ namespaces: [{ storage: new MemoryStorage(512) }], clock });
    driver.enable();
    await driver.createQueues(1, 8);
    await driver.useShadow();
    const page = driver.pages(1);
    for (let round = 0; round < 3; round++) {
      // It sees the last head first, and then that nothing more comes.
      await turns(5);
      clock.advance(1e6);
      await turns(5);
      const before = driver.rings;
      for (let n = 0; n < 10; n++) {
        expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
      }
      expect(driver.rings - before).toBe(1);
    }
    driver.nvme.reset('device');
  });

  it('lose no submission that is stored while the controller arms them', async () => {
    const clock = new ManualClock();
    const driver = new HostDriver({ namespaces: [{ storage: new MemoryStorage(512) }], clock });
    driver.enable();
    await driver.createQueues(1, 8);
    await driver.useShadow();
    const page = driver.pages(1);
    expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
    const { doorbells, events } = driver.shadow!;
    const { dma } = driver.link;
    const write = dma.writeFrom.bind(dma);
    let cid: number | undefined;
    dma.writeFrom = (iova, bytes) => {
      if (iova === events && cid === undefined) {
        // The host has loaded the old index, and does not ring.
        cid = driver.put(1, { opcode: 2, nsid: 1, prp1: page });
        driver.view.setUint32(doorbells + 8, driver.submission[1]!.at, true);
      }
      write(iova, bytes);
    };
    await turns(5);
    clock.advance(1e6);
    await turns(5);
    expect(cid).toBeDefined();
    expect((await driver.completed(1, cid!)).status).toBe(0);
    driver.nvme.reset('device');
  });

  it('cover queues that are made later, and are anew after a reset', async () => {
    const { driver, page } = await started(1000);
    await driver.useShadow();
    await driver.createQueues(2, 8);
    for (let n = 0; n < 20; n++) {
      expect((await driver.run(1 + (n & 1), { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
    }
    driver.shadow = undefined;
    driver.link.write(0x14, 0x0046_0000);
    driver.enable();
    await driver.createQueues(1);
    expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
  });

  it('with a wrong value tell of it once, and are taken again when it is right', async () => {
    const { driver, page } = await started(1e9);
    await driver.useShadow();
    const request = driver.put(0, { opcode: 0x0c });
    driver.ring(0);
    await driver.run(1, { opcode: 2, nsid: 1, prp1: page });
    const tail = driver.submission[1]!.at;
    driver.view.setUint32(driver.shadow!.doorbells + 8, 4711, true);
    expect((await driver.completed(0, request)).dword0).toBe(0x0001_0100);
    driver.view.setUint32(driver.shadow!.doorbells + 8, tail, true);
    await turns(3);
    expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
    driver.nvme.reset('device');
  });

  it('are refused off a page boundary, and outside RAM', async () => {
    const { driver, page } = await started(0);
    const config = (prp1: number, prp2: number) => driver.admin({ opcode: 0x7c, prp1, prp2 });
    expect((await config(page + 8, page)).status).toBe(Status.invalidField);
    expect((await config(page, page + 8)).status).toBe(Status.invalidField);
    expect((await config(0x7f_ffff_f000, page)).status).toBe(Status.dataTransferError);
    expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
    expect(page % PAGE).toBe(0);
  });
});
