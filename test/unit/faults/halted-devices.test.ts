/** Devices with queues, whose work is cut off in the middle: after a reset they are as new. */
import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { Nvme } from '../../../src/devices/nvme/nvme.ts';
import { FaultPlan } from '../../../src/faults/index.ts';
import type { PciEndpoint } from '../../../src/pci/endpoint.ts';
import { ManualClock } from '../../../src/pci/index.ts';
import { HostDriver, REGISTER, turns } from '../devices/nvme/host-driver.ts';
import { MemoryStorage } from '../devices/nvme/memory-storage.ts';
import { VERSION_1, VirtioBench } from '../virtio/bench.ts';
import { DriverQueue } from '../virtio/driver-queue.ts';
import { Echo } from '../virtio/echo.ts';
import { RID } from './bench.ts';

const BLOCKS = 64;

/** A disk with commands under way when something is to happen. */
async function disk() {
  const plan = new FaultPlan({ seed: 1, clock: new ManualClock() });
  const storage = new MemoryStorage(BLOCKS * 512);
  storage.content.set(randomBytes(storage.bytes));
  let endpoint: PciEndpoint | undefined;
  const driver = new HostDriver({ namespaces: [{ storage }] }, undefined, (nvme: Nvme) => {
    endpoint = plan.around(nvme, RID);
    return endpoint;
  });
  driver.enable();
  await driver.createQueues(1);
  const page = driver.pages(1);
  const read = (block: number) => {
    driver.put(1, { opcode: 2, nsid: 1, prp1: page, dwords: [block, 0, 0] });
    driver.ring(1);
  };
  /** What the driver does after a reset, and that the disk works. */
  const works = async () => {
    driver.enable();
    driver.arrived.clear();
    await driver.createQueues(1);
    const done = await driver.run(1, { opcode: 2, nsid: 1, prp1: page, dwords: [9, 0, 0] });
    expect(done.status).toBe(0);
    const got = driver.memory.subarray(page, page + 512);
    expect(Buffer.compare(got, storage.content.subarray(9 * 512, 10 * 512))).toBe(0);
    expect(driver.nvme.failed).toBeUndefined();
  };
  const reset = () => endpoint?.reset('function-level');
  return { plan, driver, storage, read, works, reset, page };
}

describe('NVMe', () => {
  it('that stalls completes nothing, and works after a reset', async () => {
    const { plan, driver, read, works, reset } = await disk();
    for (let n = 0; n < 4; n++) read(n);
    plan.arm('device.stall', { nth: 1 });
    read(4);
    await turns(50);
    driver.reapAll();
    expect(driver.arrived.size).toBe(0);
    expect(driver.csts).toBe(1);
    reset();
    await works();
  });

  it('that stalls while its storage is at work, and is disarmed then, works too', async () => {
    const { plan, driver, storage, read, works } = await disk();
    storage.held = true;
    read(1);
    await turns(20);
    const stall = plan.arm('device.stall', { nth: 1 });
    read(2);
    storage.release();
    storage.held = false;
    await turns(20);
    driver.reapAll();
    expect(driver.arrived.size).toBe(0);
    stall.disarm();
    expect(driver.csts).toBe(0);
    await works();
  });

  it('that is removed reads all ones, and works once it is back', async () => {
    const { plan, driver, read, works } = await disk();
    for (let n = 0; n < 4; n++) read(n);
    const gone = plan.arm('register.all-ones', { nth: 1 });
    expect(driver.csts).toBe(0xffff_ffff);
    await turns(50);
    driver.link.write(REGISTER.cc, 0x0046_0001);
    expect(driver.csts).toBe(0xffff_ffff);
    gone.disarm();
    expect(driver.csts).toBe(0);
    await works();
  });

  it.each([1, 2, 3, 4, 5, 6])('that is reset in its DMA %i works after it', async (nth) => {
    const { plan, driver, read, works } = await disk();
    const reset = plan.arm('reset.during', { nth });
    for (let n = 0; n < 4; n++) read(n);
    await turns(50);
    expect(reset.struck).toBe(1);
    expect(driver.csts).toBe(0);
    await works();
  });
});

describe('a virtio device', () => {
  it.each([1, 2, 3, 4, 5, 6])('that is reset in its DMA %i works after it', (nth) => {
    const plan = new FaultPlan({ seed: 1 });
    const device = new Echo();
    const bench = new VirtioBench(device, {}, (inner) => plan.around(inner, RID));
    const ask = () => {
      bench.negotiate([VERSION_1]);
      const queue = new DriverQueue(bench, { size: 4, features: [VERSION_1], vector: 0 });
      bench.ready();
      bench.memory[0x2000] = 41;
      bench.memory[0x2100] = 0;
      queue.add([{ address: 0x2000, length: 1 }], [{ address: 0x2100, length: 1 }]);
      queue.kick();
      return queue.reap().length;
    };
    const reset = plan.arm('reset.during', { nth });
    expect(ask()).toBe(0);
    expect([reset.struck, bench.status]).toEqual([1, 0]);
    expect([ask(), bench.memory[0x2100]]).toEqual([1, 42]);
    expect(device.failed).toBeUndefined();
    expect(bench.faults).toEqual([]);
  });
});
