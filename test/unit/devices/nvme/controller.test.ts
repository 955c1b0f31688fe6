import { describe, expect, it } from 'vitest';
import { Nvme } from '../../../../src/devices/nvme/nvme.ts';
import { Status } from '../../../../src/devices/nvme/status.ts';
import { configSpace } from '../../../../src/pci/config-space.ts';
import { CC, HostDriver, PAGE, REGISTER, turns } from './host-driver.ts';
import { MemoryStorage } from './memory-storage.ts';

const disk = () => new MemoryStorage(64 * 512);
const host = () => new HostDriver({ namespaces: [{ storage: disk() }], doorbells: 'message' });

describe('registers of the controller', () => {
  it('is an NVM Express I/O controller with 33 MSI-X vectors or more and a 64-bit BAR of 16 KiB', () => {
    const nvme = new Nvme({ namespaces: [{ storage: disk() }] });
    expect(nvme.identity.classCode).toBe(0x010802);
    expect(nvme.interruptVectors.msix).toBeGreaterThanOrEqual(33);
    expect(nvme.bars[0]).toMatchObject({ size: 16384, width: 64, kind: 'memory' });
    expect(configSpace(nvme).bytes.length).toBe(4096);
  });

  it('says what it can: 1024 entries, contiguous queues, NVM command set, pages of 4 KiB to 64 KiB', () => {
    const { link } = host();
    const cap = link.readWide(REGISTER.cap);
    expect(cap & 0xffffn).toBe(1023n);
    expect((cap >> 16n) & 1n).toBe(1n);
    expect((cap >> 37n) & 0xffn).toBe(1n);
    expect((cap >> 48n) & 0xffn).toBe(0x40n);
    expect(link.read(REGISTER.vs)).toBe(0x0001_0400);
    link.write(REGISTER.asq, 0x1fffn, 8);
    expect(link.readWide(REGISTER.asq)).toBe(0x1000n);
  });

  it('is ready when enabled and not ready after, with AQA, ASQ and ACQ kept', async () => {
    const driver = host();
    expect(driver.csts).toBe(0);
    driver.enable();
    expect(driver.csts).toBe(1);
    await driver.createQueues(1);
    driver.link.write(REGISTER.cc, CC.off);
    expect(driver.csts).toBe(0);
    expect(driver.link.readWide(REGISTER.asq)).toBe(BigInt(driver.submission[0]!.base));
    driver.enable();
    expect((await driver.admin({ opcode: 6, prp1: driver.pages(1), dwords: [1] })).status).toBe(0);
    // The I/O queues went with the reset.
    await driver.createQueues(1);
  });

  it.each([
    ['admin queues of one entry', { aqa: 0, cc: CC.enabled }],
    ['a command set it has not', { aqa: 0x000f_000f, cc: CC.enabled | (1 << 4) }],
    ['pages beyond CAP.MPSMAX', { aqa: 0x000f_000f, cc: CC.enabled | (5 << 7) }],
    ['weighted round robin', { aqa: 0x000f_000f, cc: CC.enabled | (1 << 11) }],
    ['entries of 128 bytes', { aqa: 0x000f_000f, cc: 0x0047_0001 }],
  ])('refuses %s by CSTS.CFS, until the next reset', (_what, { aqa, cc }) => {
    const driver = host();
    driver.link.write(REGISTER.aqa, aqa);
    driver.link.write(REGISTER.cc, cc);
    expect(driver.csts).toBe(2);
    expect(driver.link.faults[0]?.message).toContain('fatal');
    driver.link.write(REGISTER.cc, CC.off);
    expect(driver.csts).toBe(0);
    driver.enable();
    expect(driver.csts).toBe(1);
  });

  it('sets CSTS.CFS where the admin queue lies outside RAM, and lives on after a reset', async () => {
    const driver = host();
    driver.link.write(REGISTER.aqa, 0x000f_000f);
    driver.link.write(REGISTER.asq, 0x7f_ffff_f000n, 8);
    driver.link.write(REGISTER.acq, driver.pages(1), 8);
    driver.link.write(REGISTER.cc, CC.enabled);
    driver.link.write(REGISTER.doorbells, 1);
    await turns(3);
    expect(driver.csts & 2).toBe(2);
    expect(driver.nvme.failed).toBeUndefined();
    driver.link.write(REGISTER.cc, CC.off);
    driver.enable();
    expect((await driver.admin({ opcode: 0xff })).status).toBe(Status.invalidOpcode);
  });

  it.each([
    ['normal', CC.shutdown],
    ['abrupt', CC.abrupt],
  ])(
    'flushes its storages at a %s shutdown, and only then says that it is complete',
    async (_name, shn) => {
      const storage = disk();
      const driver = new HostDriver({ namespaces: [{ storage }] });
      driver.enable();
      storage.held = true;
      driver.link.write(REGISTER.cc, CC.enabled | shn);
      expect((driver.csts >> 2) & 3).toBe(1);
      expect(storage.log).toEqual(['flush 0 0']);
      storage.release();
      expect((driver.csts >> 2) & 3).toBe(2);
      driver.link.write(REGISTER.cc, CC.off);
      expect(driver.csts).toBe(0);
    },
  );

  it('resets the whole subsystem by NSSR, and says so until that is cleared', async () => {
    const driver = host();
    driver.enable();
    driver.link.write(REGISTER.nssr, 0x1234);
    expect(driver.csts).toBe(1);
    driver.link.write(REGISTER.nssr, 0x4e56_4d65);
    expect(driver.csts).toBe(0x10);
    expect(driver.link.read(REGISTER.cc)).toBe(0);
    driver.link.write(REGISTER.csts, 0x10);
    expect(driver.csts).toBe(0);
    driver.enable();
    await driver.createQueues(1);
  });

  it('drives INTA# as long as a queue that is not masked has entries', async () => {
    const driver = host();
    driver.link.interrupts.mode = 'intx';
    driver.enable();
    const cid = driver.put(0, { opcode: 6, prp1: driver.pages(1), dwords: [1] });
    driver.ring(0);
    await turns(3);
    expect(driver.link.interrupts.level).toBe(true);
    driver.link.write(REGISTER.intms, 1);
    expect(driver.link.interrupts.level).toBe(false);
    expect(driver.link.read(REGISTER.intmc)).toBe(1);
    driver.link.write(REGISTER.intmc, 1);
    expect(driver.link.interrupts.level).toBe(true);
    expect((await driver.completed(0, cid)).status).toBe(0);
    await turns(3);
    expect(driver.link.interrupts.level).toBe(false);
  });

  it('refuses options that make no controller', () => {
    expect(() => new Nvme({ namespaces: [] })).toThrow(RangeError);
    expect(() => new Nvme({ namespaces: [{ storage: disk() }], serial: 'x'.repeat(21) })).toThrow(
      RangeError,
    );
  });
});

describe('commands on queues', () => {
  const create = (opcode: number, base: number | bigint, dword10: number, dword11: number) => ({
    opcode,
    prp1: base,
    dwords: [dword10, dword11],
  });

  it('refuses each wrong queue with the status that the specification names', async () => {
    const driver = host();
    driver.enable();
    const page = driver.pages(1);
    const status = async (entry: Parameters<HostDriver['admin']>[0]) =>
      (await driver.admin(entry)).status;
    const cq = (base: number, d10: number, d11: number) => status(create(5, base, d10, d11));
    const sq = (base: number, d10: number, d11: number) => status(create(1, base, d10, d11));
    expect(await cq(page, 0x000f_0000, 3)).toBe(Status.invalidQueueId);
    expect(await cq(page, 0x000f_ffff, 3)).toBe(Status.invalidQueueId);
    expect(await cq(page, 0x0000_0001, 3)).toBe(Status.invalidQueueSize);
    expect(await cq(page, 0x0400_0001, 3)).toBe(Status.invalidQueueSize);
    expect(await cq(page, 0x000f_0001, 2)).toBe(Status.invalidField);
    expect(await cq(page + 8, 0x000f_0001, 3)).toBe(Status.prpOffsetInvalid);
    expect(await cq(page, 0x000f_0001, (2000 << 16) | 3)).toBe(Status.invalidInterruptVector);
    expect(await cq(page, 0x000f_0001, 3)).toBe(Status.success);
    expect(await cq(page, 0x000f_0001, 3)).toBe(Status.invalidQueueId);
    expect(await sq(page, 0x000f_0001, 1)).toBe(Status.completionQueueInvalid);
    expect(await sq(page, 0x000f_0001, (2 << 16) | 1)).toBe(Status.completionQueueInvalid);
    expect(await sq(page, 0x000f_0000, (1 << 16) | 1)).toBe(Status.invalidQueueId);
    expect(await sq(page, 0x0000_0001, (1 << 16) | 1)).toBe(Status.invalidQueueSize);
    expect(await sq(page, 0x000f_0001, 1 << 16)).toBe(Status.invalidField);
    expect(await sq(page, 0x000f_0001, (1 << 16) | 1)).toBe(Status.success);
    expect(await sq(page, 0x000f_0001, (1 << 16) | 1)).toBe(Status.invalidQueueId);
    expect(await status({ opcode: 4, dwords: [1] })).toBe(Status.invalidQueueDeletion);
    expect(await status({ opcode: 4, dwords: [0] })).toBe(Status.invalidQueueId);
    expect(await status({ opcode: 0, dwords: [0] })).toBe(Status.invalidQueueId);
    expect(await status({ opcode: 0, dwords: [2] })).toBe(Status.invalidQueueId);
    expect(await status({ opcode: 0, dwords: [1] })).toBe(Status.success);
    expect(await status({ opcode: 4, dwords: [1] })).toBe(Status.success);
    expect(await status({ opcode: 4, dwords: [1] })).toBe(Status.invalidQueueId);
    expect(await status({ opcode: 0x7c })).toBe(Status.invalidOpcode);
    expect(await status({ opcode: 6, flags: 0x40, dwords: [1] })).toBe(Status.invalidField);
    expect(await status({ opcode: 6, flags: 1, dwords: [1] })).toBe(Status.invalidField);
  });

  it('ends a deletion only when what is in flight has ended, and drops what was not taken', async () => {
    const storage = disk();
    const driver = new HostDriver({ namespaces: [{ storage }] });
    driver.enable();
    await driver.createQueues(1);
    storage.held = true;
    const page = driver.pages(1);
    const cid = driver.put(1, { opcode: 2, nsid: 1, prp1: page });
    driver.ring(1);
    await turns(3);
    const deletion = driver.put(0, { opcode: 0, dwords: [1] });
    driver.ring(0);
    await turns(5);
    driver.reapAll();
    expect(driver.arrived.size).toBe(0);
    storage.release();
    expect((await driver.completed(0, deletion)).status).toBe(0);
    expect((await driver.completed(1, cid)).status).toBe(0);
  });

  it('aborts an event request, and says that it did not abort what has ended', async () => {
    const driver = host();
    driver.enable();
    const request = driver.put(0, { opcode: 0x0c });
    driver.ring(0);
    await turns(3);
    const abort = await driver.admin({ opcode: 8, dwords: [(request << 16) | 0] });
    expect([abort.status, abort.dword0]).toEqual([0, 0]);
    expect((await driver.completed(0, request)).status).toBe(Status.abortRequested);
    const again = await driver.admin({ opcode: 8, dwords: [(request << 16) | 0] });
    expect([again.status, again.dword0]).toEqual([0, 1]);
  });

  it('tells of wrong doorbells by an asynchronous event, and goes on', async () => {
    const driver = host();
    driver.enable();
    await driver.createQueues(1);
    const first = driver.put(0, { opcode: 0x0c });
    driver.ring(0);
    await turns(3);
    driver.link.write(REGISTER.doorbells + 4 * 20, 1);
    expect((await driver.completed(0, first)).dword0).toBe(0x0001_0000);
    // Reading the log page unmasks.
    await driver.admin({ opcode: 2, prp1: driver.pages(1), dwords: [(15 << 16) | 1] });
    const second = driver.put(0, { opcode: 0x0c });
    driver.ring(0);
    await turns(3);
    driver.link.write(REGISTER.doorbells + 8, 16);
    expect((await driver.completed(0, second)).dword0).toBe(0x0001_0100);
    // A head that names entries which were never posted is no less wrong.
    driver.link.write(REGISTER.doorbells + 12, 3);
    const page = driver.pages(1);
    expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
  });

  it('stops a queue whose memory is outside RAM, sets CSTS.CFS, and hurts no other', async () => {
    const driver = host();
    driver.enable();
    await driver.createQueues(1);
    await driver.createQueues(2);
    const outside = { opcode: 1, prp1: 0x7f_0000_0000, dwords: [0x000f_0003, (2 << 16) | 1] };
    expect((await driver.admin(outside)).status).toBe(0);
    driver.link.write(REGISTER.doorbells + 8 * 3, 2);
    const page = driver.pages(1);
    expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
    expect(driver.csts & 2).toBe(2);
    expect(driver.link.memory[PAGE * 200]).toBe(0);
  });
});

describe('resets in the midst of I/O', () => {
  it.each([
    ['controller reset', (driver: HostDriver) => driver.link.write(REGISTER.cc, CC.off)],
    ['function-level reset', (driver: HostDriver) => driver.nvme.reset('function-level')],
    ['subsystem reset', (driver: HostDriver) => driver.link.write(REGISTER.nssr, 0x4e56_4d65)],
  ])(
    '%s: nothing of before reaches the host, and readiness waits for the disk',
    async (_name, reset) => {
      const storage = disk();
      const driver = new HostDriver({ namespaces: [{ storage }] });
      driver.enable();
      await driver.createQueues(1);
      storage.held = true;
      storage.content.fill(0xaa);
      const page = driver.pages(4);
      for (let n = 0; n < 4; n++) driver.put(1, { opcode: 2, nsid: 1, prp1: page + n * PAGE });
      driver.ring(1);
      await turns(3);
      expect(storage.underWay).toBe(4);
      reset(driver);
      driver.enable();
      expect(driver.csts & 1).toBe(0);
      const before = driver.memory.slice();
      const messages = driver.link.interrupts.messages.length;
      storage.release();
      await turns(10);
      expect(driver.csts & 1).toBe(1);
      expect(Buffer.compare(driver.memory, before)).toBe(0);
      expect(driver.link.interrupts.messages.length).toBe(messages);
      storage.held = false;
      await driver.createQueues(1);
      expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
      expect(driver.memory[page + 511]).toBe(0xaa);
    },
  );
});
