import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Nvme } from '../../../../src/devices/nvme/nvme.ts';
import { NvmeSubsystem } from '../../../../src/devices/nvme/subsystem.ts';
import { type Completion, HostDriver, PAGE, REGISTER, turns } from './host-driver.ts';
import { MemoryStorage } from './memory-storage.ts';

const BLOCKS = 64;
const INVALID_OPCODE = 0x001;
const INVALID_FIELD = 0x002;
const INVALID_NAMESPACE = 0x00b;

function disk(fill = 0): MemoryStorage {
  const storage = new MemoryStorage(BLOCKS * 512);
  storage.content.fill(fill);
  return storage;
}

/** Namespaces 1 and 4 are the physical function's, 2 is virtual function 1's, 3 is 2's; 5 is nobody's. */
function subsystem(virtualFunctions = 3) {
  const storages = [disk(1), disk(2), disk(3), disk(4), disk(5)] as const;
  const owners = [0, 1, 2, 0, undefined];
  const namespaces = storages.map((storage, index) => {
    const owner = owners[index];
    return owner === undefined ? { storage } : { storage, function: owner };
  });
  const whole = new NvmeSubsystem({ virtualFunctions, namespaces, serial: 'SUB1' });
  return { whole, storages };
}

function driverOf(nvme: Nvme): HostDriver {
  const driver = new HostDriver(nvme);
  driver.enable();
  return driver;
}

interface Page {
  readonly completion: Completion;
  readonly data: DataView;
}

async function page(driver: HostDriver, entry: Parameters<HostDriver['admin']>[0]): Promise<Page> {
  const prp1 = driver.pages(1);
  const completion = await driver.admin({ ...entry, prp1 });
  return { completion, data: new DataView(driver.memory.buffer, prp1, PAGE) };
}

const identify = (driver: HostDriver, cns: number, more = 0, nsid = 0) =>
  page(driver, { opcode: 6, nsid, dwords: [((more << 16) | cns) >>> 0] });

const log = (driver: HostDriver, page_: number) =>
  page(driver, { opcode: 2, nsid: 0xffff_ffff, dwords: [((1023 << 16) | page_) >>> 0] });

function text({ buffer, byteOffset }: DataView, at: number, length: number): string {
  return Buffer.from(buffer as ArrayBuffer, byteOffset + at, length)
    .toString('latin1')
    .replace(/[ \0]+$/, '');
}

async function activeNamespaces(driver: HostDriver): Promise<number[]> {
  const { data } = await identify(driver, 0x02);
  const nsids = Array.from({ length: 8 }, (_, i) => data.getUint32(4 * i, true));
  return nsids.filter((nsid) => nsid !== 0);
}

describe('an NVM subsystem of a physical and three virtual functions', () => {
  test('its controllers share serial number and NQN, and have an identifier each', async () => {
    const { whole } = subsystem();
    const seen = [];
    for (const number of [0, 1, 2, 3]) {
      const { data } = await identify(driverOf(whole.controller(number)), 0x01);
      seen.push([
        text(data, 4, 20),
        text(data, 768, 256),
        data.getUint16(78, true),
        data.getUint8(76),
      ]);
    }
    const nqn = seen[0]?.[1];
    expect(nqn).toMatch(/^nqn\.2014-08\.org\.nvmexpress:uuid:/);
    // CMIC: several controllers (bit 1), of a virtual function (bit 2).
    expect(seen).toEqual([
      ['SUB1', nqn, 1, 0b010],
      ['SUB1', nqn, 2, 0b110],
      ['SUB1', nqn, 3, 0b110],
      ['SUB1', nqn, 4, 0b110],
    ]);
  });

  test('each has its own namespaces, and reaches no other’s', async () => {
    const { whole, storages } = subsystem();
    const wanted = [[1, 4], [2], [3], []];
    for (const [number, nsids] of wanted.entries()) {
      const driver = driverOf(whole.controller(number));
      expect(await activeNamespaces(driver)).toEqual(nsids);
      await driver.createQueues(1);
      for (const nsid of [1, 2, 3, 4, 5]) {
        const prp1 = driver.pages(1);
        const { status } = await driver.run(1, { opcode: 2, nsid, prp1, dwords: [0, 0, 0] });
        const reached = nsids.includes(nsid);
        expect(status).toBe(reached ? 0 : INVALID_FIELD);
        expect([...new Set(driver.memory.subarray(prp1, prp1 + 512))]).toEqual([
          reached ? nsid : 0,
        ]);
      }
    }
    expect(storages[4].log).toEqual([]);
  });

  test('another’s namespace is to each what one is that there is not, and their number nobody’s', async () => {
    const { whole } = subsystem();
    for (const number of [0, 1, 2, 3]) {
      const driver = driverOf(whole.controller(number));
      await driver.createQueues(1);
      const { data: id } = await identify(driver, 0x01);
      // NN is the subsystem's (§6.1.2); TNVMCAP, its capacity, needs Namespace Management alone.
      expect(id.getUint32(516, true)).toBe(256);
      expect(id.getBigUint64(280, true)).toBe(0n);
      const own = await activeNamespaces(driver);
      // 5 is nobody's, 256 is not there, 257 is no NSID.
      for (const nsid of [1, 2, 3, 4, 5, 256, 257]) {
        if (own.includes(nsid)) continue;
        const inactive = nsid > 256 ? INVALID_NAMESPACE : INVALID_FIELD;
        for (const cns of [0x00, 0x11]) {
          const { completion, data } = await identify(driver, cns, 0, nsid);
          expect(completion.status).toBe(nsid > 256 ? INVALID_NAMESPACE : 0);
          expect(bytesOf({ completion, data }).some((byte) => byte !== 0)).toBe(false);
        }
        // Whose identifiers and whose controllers is not told either.
        expect((await identify(driver, 0x03, 0, nsid)).completion.status).toBe(INVALID_NAMESPACE);
        expect((await identify(driver, 0x12, 0, nsid)).completion.status).toBe(inactive);
        for (const entry of [
          { opcode: 0x80, nsid },
          { opcode: 0x0a, nsid, dwords: [0x84] },
          { opcode: 0x09, nsid, dwords: [0x84, 1] },
        ]) {
          expect((await driver.admin(entry)).status).toBe(inactive);
        }
        const { status } = await driver.run(1, { opcode: 1, nsid, dwords: [0, 0, 0] });
        expect(status).toBe(inactive);
      }
    }
  });

  test('there is no reset of the subsystem, for each controller is another VM’s', async () => {
    const { whole } = subsystem();
    const drivers = [0, 1, 2, 3].map((number) => driverOf(whole.controller(number)));
    for (const { link } of drivers) {
      // CAP.NSSRS; NSSR is reserved then.
      expect((link.read(REGISTER.cap + 4) >>> 4) & 1).toBe(0);
      link.write(REGISTER.nssr, 0x4e56_4d65);
    }
    expect(drivers.map(({ csts }) => csts)).toEqual([1, 1, 1, 1]);
  });

  test('what manages namespaces and functions is announced by none, and refused by all', async () => {
    const { whole } = subsystem();
    for (const number of [0, 1]) {
      const driver = driverOf(whole.controller(number));
      // OACS: Namespace Management (bit 3), Virtualization Management (bit 7).
      const { data } = await identify(driver, 0x01);
      expect(data.getUint16(256, true) & 0x88).toBe(0);
      for (const opcode of [0x0d, 0x15, 0x1c]) {
        expect((await driver.admin({ opcode, nsid: 2 })).status).toBe(INVALID_OPCODE);
      }
    }
  });

  test('the primary controller tells of the secondary ones, which tell of themselves alone', async () => {
    const { whole } = subsystem();
    const primary = driverOf(whole.controller(0));
    const secondary = driverOf(whole.controller(2));
    const controllers = async (driver: HostDriver, least: number) => {
      const { data } = await identify(driver, 0x13, least);
      const count = data.getUint16(0, true);
      return Array.from({ length: count }, (_, i) => data.getUint16(2 + 2 * i, true));
    };
    expect(await controllers(primary, 0)).toEqual([1, 2, 3, 4]);
    expect(await controllers(primary, 3)).toEqual([3, 4]);
    expect(await controllers(secondary, 0)).toEqual([3]);

    const { data: capabilities } = await identify(primary, 0x14);
    expect(capabilities.getUint16(0, true)).toBe(1);
    const { data: list } = await identify(primary, 0x15, 3);
    expect(list.getUint8(0)).toBe(2);
    const entry = (at: number) => ({
      id: list.getUint16(at, true),
      primary: list.getUint16(at + 2, true),
      online: list.getUint8(at + 4),
      virtualFunction: list.getUint16(at + 8, true),
    });
    expect(entry(32)).toEqual({ id: 3, primary: 1, online: 1, virtualFunction: 2 });
    // Nobody has the third: it is told of, and offline.
    expect(entry(64)).toEqual({ id: 4, primary: 1, online: 0, virtualFunction: 3 });
    const online = async () => {
      const { data } = await identify(primary, 0x15);
      return [32, 64, 96].map((at) => data.getUint8(at + 4));
    };
    expect(await online()).toEqual([0, 1, 0]);
    for (const cns of [0x14, 0x15]) {
      expect((await identify(secondary, cns)).completion.status).toBe(INVALID_FIELD);
    }
    whole.controller(3);
    await whole.giveBack(2);
    expect(await online()).toEqual([0, 0, 1]);
  });

  test('as many as 64 virtual functions, and no more', async () => {
    const namespaces = [{ storage: disk() }];
    const whole = new NvmeSubsystem({ virtualFunctions: 64, namespaces });
    const { data } = await identify(driverOf(whole.controller(0)), 0x15);
    expect([data.getUint8(0), data.getUint16(32 * 64, true)]).toEqual([64, 65]);
    expect(whole.controller(64)).toBeInstanceOf(Nvme);
    expect(() => new NvmeSubsystem({ virtualFunctions: 65, namespaces })).toThrow(RangeError);
    expect(() => whole.controller(65)).toThrow(RangeError);
  });

  test.each([[[2, 1]], [[3, 3]], [[0]], [[257]], [[1.5]]])('NSIDs of %j do not rise', (nsids) => {
    const namespaces = nsids.map((nsid) => ({ nsid, storage: disk() }));
    expect(() => new Nvme({ namespaces })).toThrow(/rising NSIDs/);
  });

  test('a namespace is one function’s at a time, and a controller is made once', () => {
    const { whole, storages } = subsystem();
    expect(() => whole.assign(2, 2)).toThrow(/function 1's/);
    whole.assign(2, undefined);
    whole.assign(2, 2);
    expect(whole.ownerOf(2)).toBe(2);
    expect(() => whole.assign(6, 0)).toThrow(RangeError);
    expect(() => whole.assign(1, 9)).toThrow(RangeError);
    whole.controller(1);
    expect(() => whole.controller(1)).toThrow(/move it, or give it back/);
    const [storage] = storages;
    expect(
      () => new NvmeSubsystem({ virtualFunctions: 1, namespaces: [{ storage, function: 2 }] }),
    ).toThrow(RangeError);
    const many = Array.from({ length: 257 }, () => ({ storage }));
    expect(() => new NvmeSubsystem({ virtualFunctions: 1, namespaces: many })).toThrow(/256.*257/);
  });

  test('a namespace is in one controller at a time, whoever it belongs to', async () => {
    const { whole } = subsystem();
    const before = whole.controller(1);
    whole.assign(2, undefined);
    // Function 1's controller reads and writes it still: it must not be in another's meanwhile.
    expect(() => whole.assign(2, 2)).toThrow(/controller that function 1 has now/);
    expect(whole.namespaces[1]).toMatchObject({ nsid: 2, owner: undefined, holder: 1 });
    whole.assign(2, 1);
    whole.assign(2, undefined);
    await before.handOver();
    expect(whole.namespaces[1]).toMatchObject({ owner: undefined, holder: undefined });
    whole.assign(2, 2);
    expect(await activeNamespaces(driverOf(whole.controller(2)))).toEqual([2, 3]);
    await expect(before.handOver()).rejects.toThrow(/one that it had before/);
  });

  test('a namespace is in no two controllers, whatever is asked for', async () => {
    // Few of each, so that they meet.
    const number = fc.nat({ max: 2 });
    const nsid = fc.integer({ min: 1, max: 3 });
    const step = fc.oneof(
      fc.record({ does: fc.constantFrom('assign', 'take away'), nsid, number }),
      fc.record({
        does: fc.constantFrom('give', 'give back', 'hand over'),
        nsid: fc.constant(0),
        number,
      }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 40 }), async (steps) => {
        const { whole } = subsystem();
        const live = new Map<number, Nvme>();
        for (const { does, nsid, number } of steps) {
          const controller = live.get(number);
          try {
            if (does === 'assign') whole.assign(nsid, number);
            else if (does === 'take away') whole.assign(nsid, undefined);
            else if (does === 'give') live.set(number, whole.controller(number));
            else if (does === 'hand over' && controller)
              live.set(number, await controller.handOver());
            else if (does === 'give back' && controller) {
              await whole.giveBack(number);
              live.delete(number);
            }
          } catch (error) {
            expect(String(error)).toMatch(/^Error: expected a (namespace|function) that/);
          }
          const had = [...live].flatMap(([function_, { namespaces }]) =>
            namespaces.map((one) => [one.nsid, function_]),
          );
          expect(new Set(had.map(([nsid]) => nsid)).size).toBe(had.length);
          expect(whole.given).toEqual([...live.keys()].sort());
          expect(
            whole.namespaces.flatMap((one) =>
              one.holder === undefined ? [] : [[one.nsid, one.holder]],
            ),
          ).toEqual(had.sort(([one = 0], [other = 0]) => one - other));
        }
      }),
      { numRuns: 30 },
    );
  });

  test('a namespace keeps the block size that it was given, whichever function it goes to', async () => {
    const { whole } = subsystem();
    const driver = driverOf(whole.controller(1));
    expect((await driver.admin({ opcode: 0x80, nsid: 2, dwords: [1] })).status).toBe(0);
    expect(whole.namespaces[1]).toMatchObject({ blockBytes: 4096, holder: 1 });
    await whole.giveBack(1);
    expect(whole.namespaces[1]).toMatchObject({ blockBytes: 4096, holder: undefined });
    whole.assign(2, undefined);
    whole.assign(2, 3);
    const { data } = await identify(driverOf(whole.controller(3)), 0x00, 0, 2);
    expect([data.getBigUint64(0, true), data.getUint8(26)]).toEqual([8n, 1]);
  });

  test('a function that was given back is made again, and its first controller is at rest', async () => {
    const { whole, storages } = subsystem();
    const first = driverOf(whole.controller(1));
    expect(whole.given).toEqual([1]);
    await first.createQueues(1);
    storages[1].held = true;
    first.put(1, { opcode: 2, nsid: 2, prp1: first.pages(1), dwords: [0, 0, 0] });
    first.ring(1);
    await turns(5);
    let over = false;
    const givenBack = whole.giveBack(1).then(() => {
      over = true;
    });
    await turns(20);
    expect([over, storages[1].underWay]).toEqual([false, 1]);
    expect(() => whole.controller(1)).toThrow(/give it back/);
    storages[1].held = false;
    storages[1].release();
    await givenBack;
    expect(whole.given).toEqual([]);
    await expect(whole.giveBack(1)).rejects.toThrow(/has none/);
    const second = driverOf(whole.controller(1, { doorbells: 'message' }));
    expect(await activeNamespaces(second)).toEqual([2]);
    // OACS bit 8: without Doorbell Buffer Config, as it was asked for.
    expect((await identify(second, 0x01)).data.getUint16(256, true) & 0x100).toBe(0);
    expect((await identify(driverOf(whole.controller(2)), 0x01)).data.getUint16(256, true)).toBe(
      0x102,
    );
  });
});

/** All that a controller holds of its VM: how a test sees it, which must be the same in each first life. */
const held: Readonly<Record<string, (driver: HostDriver) => Promise<unknown>>> = {
  'CSTS and the interrupt mask': async ({ link }) => [
    link.read(REGISTER.csts) & 0b11_1110,
    link.read(REGISTER.intms),
  ],
  'I/O queues': async (driver) => {
    const { dword0 } = await driver.admin({ opcode: 0xa, dwords: [0x07] });
    driver.link.write(REGISTER.doorbells + 8, 1);
    await turns(3);
    // Queue 1 is not there: its doorbell is an error, which is told of in an event.
    return [
      dword0,
      driver.link.faults.length,
      (await driver.admin({ opcode: 0, dwords: [1] })).status,
    ];
  },
  'shadow doorbells': async (driver) => {
    if (driver.submission[2] === undefined) await driver.createQueues(2);
    const prp1 = driver.pages(1);
    driver.put(2, { opcode: 2, nsid: 1, prp1, dwords: [1, 0, 0] });
    driver.ring(2);
    await turns(50);
    // Where the controller looks into shadow doorbells, the register does not tell it of the command.
    return driver.reap(2);
  },
  'number of queues and order of setting it': async (driver) =>
    (await driver.admin({ opcode: 9, dwords: [0x07, 0x0003_0003] })).status,
  arbitration: (driver) => feature(driver, 0x01),
  'power management': (driver) => feature(driver, 0x02),
  'temperature threshold': (driver) => feature(driver, 0x04),
  'error recovery': (driver) => feature(driver, 0x05, 1),
  'volatile write cache': (driver) => feature(driver, 0x06),
  'interrupt coalescing': (driver) => feature(driver, 0x08),
  'interrupt vector configuration': (driver) => feature(driver, 0x09, 0, 1),
  'write atomicity': (driver) => feature(driver, 0x0a),
  'event configuration': (driver) => feature(driver, 0x0b),
  timestamp: async (driver) => {
    const { data } = await page(driver, { opcode: 0xa, dwords: [0x0e] });
    return [data.getBigUint64(0, true) < 60_000n, data.getUint8(6)];
  },
  'write protection': (driver) => feature(driver, 0x84, 1),
  'error log': async (driver) => bytesOf(await log(driver, 0x01)),
  'health log': async (driver) => bytesOf(await log(driver, 0x02)).slice(0, 512),
  'changed namespaces': async (driver) => bytesOf(await log(driver, 0x04)).slice(0, 16),
  'event requests': async (driver) => {
    // Four may be outstanding: all four are taken.
    for (let i = 0; i < 4; i++) driver.put(0, { opcode: 0xc });
    driver.ring(0);
    await turns(20);
    driver.reapAll();
    return [...driver.arrived.values()].map(({ status }) => status);
  },
};

async function feature(driver: HostDriver, id: number, nsid = 0, dword11 = 0): Promise<unknown> {
  const { status, dword0 } = await driver.admin({ opcode: 0xa, nsid, dwords: [id, dword11] });
  return [status, dword0];
}

function bytesOf({ data }: Page): number[] {
  return [...new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, PAGE)];
}

/** Leaves something in everything that a controller has room for. */
async function live(driver: HostDriver, storage: MemoryStorage): Promise<void> {
  const set = async (id: number, dword11: number, nsid = 0, prp1 = 0) => {
    const { status } = await driver.admin({ opcode: 9, nsid, prp1, dwords: [id, dword11] });
    if (status !== 0) throw new Error(`feature ${id}: 0x${status.toString(16)}`);
  };
  await set(0x07, 0x0001_0001);
  await set(0x01, 0x0102_0302);
  await set(0x02, 0x20);
  await set(0x0b, 0x102);
  await set(0x04, 0x0120);
  await set(0x05, 7, 1);
  await set(0x08, 0x0203);
  await set(0x09, 0x1_0001);
  await set(0x0a, 1);
  const time = driver.pages(1);
  driver.view.setBigUint64(time, 1_800_000_000_000n, true);
  await set(0x0e, 0, 0, time);
  await driver.createQueues(1);
  await driver.createQueues(2);
  const data = driver.pages(1);
  for (let i = 0; i < 5; i++) {
    for (const opcode of [1, 2]) {
      await driver.run(1, { opcode, nsid: 1, prp1: data, dwords: [i, 0, 0] });
    }
  }
  await driver.run(1, { opcode: 2, nsid: 9, prp1: data, dwords: [0, 0, 0] });
  await driver.run(1, { opcode: 2, nsid: 1, prp1: data, dwords: [BLOCKS, 0, 0] });
  storage.fails = { errno: 5 };
  await driver.run(1, { opcode: 2, nsid: 1, prp1: data, dwords: [0, 0, 0] });
  storage.fails = undefined;
  await set(0x06, 0);
  await set(0x84, 1, 1);
  driver.put(0, { opcode: 0xc });
  driver.ring(0);
  driver.link.write(REGISTER.intms, 0xf0);
  await driver.useShadow();
  await turns(5);
}

describe('a function that is handed over', () => {
  const make = () => {
    const storage = disk(7);
    return { storage, nvme: new Nvme({ namespaces: [{ storage }], serial: 'SAME' }) };
  };

  test.each(Object.entries(held))('leaves nothing to the next VM: %s', async (_name, look) => {
    const fresh = make();
    const expected = await look(driverOf(fresh.nvme));
    const { nvme, storage } = make();
    const first = driverOf(nvme);
    await live(first, storage);
    const next = await nvme.handOver();
    expect(next).not.toBe(nvme);
    expect(await look(driverOf(next))).toEqual(expected);
  });

  test.each(
    Object.keys(held).filter((name) => name !== 'event requests' && name !== 'changed namespaces'),
  )('would be caught leaving: %s', async (name) => {
    const fresh = make();
    const expected = await held[name]?.(driverOf(fresh.nvme));
    const { nvme, storage } = make();
    const driver = driverOf(nvme);
    await live(driver, storage);
    // In shadow mode the queues' doorbells are not looked at.
    driver.shadow = undefined;
    expect(await held[name]?.(driver)).not.toEqual(expected);
  });

  test('is who it was, with the namespaces that it had, as they were formatted', async () => {
    const { nvme } = make();
    const driver = driverOf(nvme);
    const formatted = await driver.admin({ opcode: 0x80, nsid: 1, dwords: [1] });
    expect(formatted.status).toBe(0);
    const next = driverOf(await nvme.handOver());
    const { data } = await identify(next, 0x01);
    expect([text(data, 4, 20), data.getUint16(78, true)]).toEqual(['SAME', 1]);
    const { data: namespace } = await identify(next, 0x00, 0, 1);
    expect([namespace.getBigUint64(0, true), namespace.getUint8(26)]).toEqual([8n, 1]);
  });

  test('waits for its storage, and what that reads reaches neither memory', async () => {
    const { nvme, storage } = make();
    const first = driverOf(nvme);
    await first.createQueues(1);
    const target = first.pages(1);
    storage.held = true;
    first.put(1, { opcode: 2, nsid: 1, prp1: target, dwords: [0, 0, 7] });
    first.ring(1);
    await turns(5);
    expect(storage.underWay).toBe(1);
    const before = first.memory.slice();
    let over = false;
    const handedOver = nvme.handOver().then((next) => {
      over = true;
      return next;
    });
    await turns(20);
    expect(over).toBe(false);
    storage.held = false;
    storage.release();
    const next = await handedOver;
    const second = driverOf(next);
    const empty = second.memory.slice();
    await turns(5);
    expect(Buffer.compare(first.memory, before)).toBe(0);
    expect(Buffer.compare(second.memory, empty)).toBe(0);
    // The next one reads into buffers of its own: a read of a disk that gives nothing finds no old byte.
    await second.createQueues(1);
    const into = second.pages(1);
    storage.content.fill(0x33);
    await second.run(1, { opcode: 2, nsid: 1, prp1: into, dwords: [0, 0, 7] });
    expect([...new Set(second.memory.subarray(into, into + PAGE))]).toEqual([0x33]);
  });

  test('waits for a format, which stops', async () => {
    const { nvme, storage } = make();
    const first = driverOf(nvme);
    storage.held = true;
    first.put(0, { opcode: 0x80, nsid: 1, dwords: [0] });
    first.ring(0);
    await turns(5);
    expect(storage.underWay).toBe(1);
    let over = false;
    const handedOver = nvme.handOver().then(() => {
      over = true;
    });
    await turns(20);
    expect(over).toBe(false);
    storage.release();
    await handedOver;
    await turns(5);
    expect(storage.underWay).toBe(0);
  });

  test('of a subsystem has by then what its function was given', async () => {
    const { whole } = subsystem();
    const before = whole.controller(1);
    const first = driverOf(before);
    expect(await activeNamespaces(first)).toEqual([2]);
    whole.assign(2, undefined);
    whole.assign(5, 1);
    expect(await activeNamespaces(first)).toEqual([2]);
    const next = await before.handOver();
    const driver = driverOf(next);
    expect(await activeNamespaces(driver)).toEqual([5]);
    expect((await identify(driver, 0x01)).data.getUint16(78, true)).toBe(2);
  });
});
