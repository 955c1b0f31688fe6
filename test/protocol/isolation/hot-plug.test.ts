/**
 * Functions that come to guests that run and go from them, where the guests' QEMUs are scripts that speak QMP and
 * clients that speak vfio-user: what real ones do is in test/guest.
 */
import { existsSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { Adder } from '../../../examples/adder/adder.ts';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { Nvme } from '../../../src/devices/nvme/nvme.ts';
import { NotInGuestError } from '../../../src/machine/hot-plug.ts';
import type { Machine, PluggedFunction } from '../../../src/machine/machine.ts';
import { formatRequesterId, parseRequesterId } from '../../../src/pci/requester-id.ts';
import { replay } from '../../../src/replay/replay.ts';
import { Trace } from '../../../src/trace/trace.ts';
import { portPlaces } from '../../../src/vm/root-ports.ts';
import { MemoryStorage } from '../../unit/devices/nvme/memory-storage.ts';
import { type Answer, done, letsGo, refused, ScriptedQemu } from '../vm/scripted-qemu.ts';
import { Vms } from './vms.ts';

const PORT_1 = parseRequesterId('01:00.0');
const PORT_2 = parseRequesterId('02:00.0');
/** For waits that end by nothing else. */
const short = { removalMs: 50, replyMs: 50 };

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
});

const disk = () => new Nvme({ namespaces: [{ storage: new MemoryStorage(2 ** 20) }] });

/** Two VMs with two root ports each; the first has a disk behind its port 1. */
async function bench() {
  const log: string[] = [];
  const vms = await Vms.on('plain', (message) => log.push(message));
  ends.push(vms);
  const one = await vms.machineWith({ rootPorts: 2 });
  const two = await vms.machineWith({ rootPorts: 2 });
  const before = await vms.plug(one, disk(), '01:00.0');

  const vmms = new Map([[before.plugged.address, before.vmm]]);
  /** Connects to what it is given, as QEMU does before it says that it is done. */
  const connects =
    (machine: Machine): Answer =>
    async ({ id, socket }, qemu) => {
      const { path } = socket as { readonly path: string };
      const plugged = machine.functions.find(({ server }) => server.socketPath === path);
      if (plugged === undefined) return refused('nobody listens there');
      vmms.set(plugged.address, (await vms.connect(plugged)).vmm);
      qemu.devices.add(String(id));
      return done;
    };
  /** Its guest lets go of it, and it ends its connection. */
  const disconnects: Answer = async (args, qemu) => {
    const [, port = '0'] = /^port-(\d+)-function$/.exec(String(args.id)) ?? [];
    await vmms.get(portPlaces(Number(port)).at(-1) ?? PORT_1)?.[Symbol.asyncDispose]();
    return letsGo(args, qemu);
  };
  /** A QEMU at a VM's socket. */
  const runs = async (machine: Machine, answers: Readonly<Record<string, Answer>> = {}) => {
    const qemu = await ScriptedQemu.at(machine.monitor.socketPath, 2, {
      ...{ device_add: connects(machine), device_del: disconnects },
      ...answers,
    });
    ends.push(qemu);
    return qemu;
  };
  /** Such an answer once, then what QEMU does. */
  const once = (machine: Machine, answer: Answer): Answer => {
    const answers = [answer];
    return (args, qemu) => (answers.pop() ?? connects(machine))(args, qemu);
  };
  return { vms, platform: vms.platform, one, two, before, log, runs, once, disconnects };
}

const nameOf = ({ rid }: PluggedFunction) => formatRequesterId(rid);

describe('between two guests that run a function', () => {
  test('is let go of by the first and then given to the second, and back', async () => {
    const { platform, one, two, before, log, runs } = await bench();
    let whenAsked: unknown;
    const first = await runs(one, {
      device_del: (args, self) => {
        // Nothing is taken from a guest that has not let go yet.
        whenAsked = [before.plugged.server.connected, two.functions.length];
        return letsGo(args, self);
      },
    });
    first.has(1);
    const second = await runs(two);
    const moved = await platform.move(before.plugged, two);
    expect(whenAsked).toEqual([true, 0]);
    expect(first.asked).toEqual(['device_del port-1-function']);
    expect(second.asked).toEqual(['device_add port-1-function']);
    expect([nameOf(moved), moved.server.connected]).toEqual(['0001:01:00.0', true]);
    expect(platform.iommu.table.get(moved.rid)).toMatchObject({ vm: two.vm, slot: two.slot });
    expect(one.functions).toEqual([]);
    await expect(before.vmm.bar0.read32(0)).rejects.toThrow();

    const back = await platform.move(moved, one, { address: PORT_2 });
    expect([nameOf(back), back.server.connected]).toEqual(['0000:02:00.0', true]);
    expect(second.asked.at(-1)).toBe('device_del port-1-function');
    expect(first.asked.at(-1)).toBe('device_add port-2-function');
    expect(platform.iommu.faults.total).toBe(0);
    expect(log).toEqual([]);
    // Nobody is kept connected who may want to be alone with a QEMU.
    while (first.clients + second.clients > 0) await new Promise(setImmediate);
  });

  test('goes behind the first port that is free in the guest too, where its own is taken', async () => {
    const { platform, two, before, runs } = await bench();
    const second = await runs(two);
    second.has(1);
    const moved = await platform.move(before.plugged, two);
    expect(nameOf(moved)).toBe('0001:02:00.0');
  });

  test('stays where it is when the second has no place, and its guest is not even asked', async () => {
    const { vms, platform, one, two, before, runs } = await bench();
    const first = await runs(one);
    const second = await runs(two);
    const stays = async (address: string | undefined, why: RegExp) => {
      const options = address === undefined ? {} : { address: parseRequesterId(address) };
      await expect(platform.move(before.plugged, two, options)).rejects.toThrow(why);
    };
    await stays(
      '00:05.0',
      /root port for the guest of VM 2, which runs, got 0000:00:05.0 on bus 0/,
    );
    await stays('03:00.0', /the machine has 2, .*0000:03:00.0/);
    second.has(1);
    await stays('01:00.0', /0000:01:00.0, where the guest still has/);
    second.devices.delete('port-2');
    await stays('02:00.0', /QEMU with the root port port-2, got one without/);
    two.plug(new Edu(), PORT_2);
    await stays(undefined, /a place for the function in VM 2, got none.*02:00.0, which is taken/);
    const third = await vms.machineWith({ rootPorts: 0 });
    await stays('0001:01:00.0', /segment 0/);
    await expect(platform.move(before.plugged, third, { address: PORT_1 })).rejects.toThrow(
      /the machine has none/,
    );
    expect([first.asked, second.asked]).toEqual([[], []]);
    expect(one.functions).toEqual([before.plugged]);
    expect(before.plugged.server.connected).toBe(true);
  });

  test('has its place kept while the first lets go, and is given back where that is taken in the guest', async () => {
    const { platform, one, two, before, log, runs, disconnects } = await bench();
    const second = await runs(two);
    const refusals: unknown[] = [];
    const meanwhile = [
      () => {
        for (const port of [PORT_1, PORT_2]) {
          try {
            two.plug(new Edu(), port);
          } catch (error) {
            refusals.push(error);
          }
        }
      },
      () => second.has(1),
    ];
    const first = await runs(one, {
      device_del: (args, self) => {
        meanwhile.shift()?.();
        return disconnects(args, self);
      },
    });
    const moved = await platform.move(before.plugged, two);
    expect([nameOf(moved), moved.server.connected]).toEqual(['0001:01:00.0', true]);
    expect(refusals.map(String)).toEqual([expect.stringMatching(/0001:01:00.0, which is taken/)]);

    const plugged = await platform.move(moved, one);
    await expect(platform.move(plugged, two)).rejects.toThrow(/the guest still has/);
    expect(first.asked.slice(-2)).toEqual([
      'device_del port-1-function',
      'device_add port-1-function',
    ]);
    expect(one.functions).toEqual([plugged]);
    expect(plugged.server.connected).toBe(true);
    expect(second.asked.filter((asked) => asked.startsWith('device_add'))).toHaveLength(1);
    expect(log).toEqual([]);
    // The place is nobody's again.
    second.devices.delete('port-1-function');
    expect(nameOf(await platform.move(plugged, two))).toBe('0001:01:00.0');
  });

  test('goes behind another port of its own VM', async () => {
    const { platform, one, before, log, runs } = await bench();
    const first = await runs(one);
    first.has(1);
    const moved = await platform.move(before.plugged, one, { address: PORT_2 });
    expect([nameOf(moved), moved.server.connected]).toEqual(['0000:02:00.0', true]);
    expect(first.asked).toEqual(['device_del port-1-function', 'device_add port-2-function']);
    expect(log).toEqual([]);
  });

  test('takes a place of its own where two come at once, and stays where there is one place alone', async () => {
    const { vms, platform, one, two, before, log, runs } = await bench();
    const third = await vms.machineWith({ rootPorts: 2 });
    const beside = await vms.plug(third, disk(), '01:00.0');
    const others = [await runs(one), await runs(third, { device_del: letsGo })];
    for (const qemu of others) qemu.has(1);
    const second = await runs(two);
    const both = () => [before, beside].map(({ plugged }) => platform.move(plugged, two));
    second.has(2);
    const [first, late] = await Promise.allSettled(both());
    expect([first?.status, late?.status]).toEqual(['fulfilled', 'rejected']);
    expect(others[1]?.asked).toEqual([]);
    expect(third.functions).toEqual([beside.plugged]);

    second.devices.delete('port-2-function');
    const [plugged] = two.functions;
    const back = plugged && (await platform.move(plugged, one));
    if (back === undefined) throw new Error('expected the function to have moved');
    const moved = await Promise.all([back, beside.plugged].map((each) => platform.move(each, two)));
    expect(moved.map(nameOf).sort()).toEqual(['0001:01:00.0', '0001:02:00.0']);
    expect(moved.every(({ server }) => server.connected)).toBe(true);
    expect(log).toEqual([]);
  });

  test('stays in a guest that keeps it where there is no place for it any more', async () => {
    const { platform, one, two, before, log, runs } = await bench();
    const second = await runs(two);
    const first = await runs(one, {
      device_del: () => {
        second.has(1);
        return done;
      },
    });
    first.has(1);
    await expect(
      platform.move(before.plugged, two, { patience: { removalMs: 50 } }),
    ).rejects.toThrow(/the guest still has/);
    expect(one.functions).toEqual([before.plugged]);
    expect(before.plugged.server.connected).toBe(true);
    expect(first.asked).toEqual(['device_del port-1-function']);
    expect(log).toEqual([]);
  });

  test('stays where it is when the second VM ends while the first lets go', async () => {
    const { platform, one, two, before, log, runs, disconnects } = await bench();
    await runs(one, {
      device_del: async (args, self) => {
        await two[Symbol.asyncDispose]();
        return disconnects(args, self);
      },
    });
    await expect(platform.move(before.plugged, two)).rejects.toThrow(
      /that is up, got one that ends/,
    );
    expect(one.functions).toEqual([before.plugged]);
    expect(before.plugged.server.connected).toBe(true);
    expect(log).toEqual([]);
  });

  test('stays where it is when the second’s QEMU cannot be asked', async () => {
    const { vms, platform, one, two, before } = await bench();
    const { plugged } = await vms.plug(two, new Edu());
    await expect(platform.move(before.plugged, two)).rejects.toThrow(
      /QEMU that VM 2 is attached to at .*vm2-qmp\.sock with its QMP, got nobody/,
    );
    const mute = await ScriptedQemu.at(two.monitor.socketPath, 2, {}, false);
    ends.push(mute);
    await expect(
      platform.move(before.plugged, two, { patience: { greetingMs: 20 } }),
    ).rejects.toThrow(/greeting within 0.02 s, got none.*is stopped or hangs/);
    expect(one.functions).toEqual([before.plugged]);
    expect(plugged.server.connected).toBe(true);
  });
});

describe('a guest that does not let go loses the function all the same, and it is said:', () => {
  test.each<[string, Answer, RegExp]>([
    ['it ignores it', () => done, /has not let go of it: within 0.05 s: the guest did not let go/],
    ['its QEMU says nothing', () => undefined, /has not let go of it: within 0.05 s/],
    [
      'its QEMU refuses',
      () => refused('no'),
      /has not let go of it: .*QEMU refused device_del: no/,
    ],
    [
      'its QEMU hangs up',
      (_, qemu) => {
        qemu.hangUp();
        return undefined;
      },
      /has not let go of it: QEMU closed its QMP connection/,
    ],
    [
      'what speaks there is no QMP',
      (_, qemu) => {
        qemu.write('HTTP/1.1 400 Bad Request\n');
        return undefined;
      },
      /has not let go of it: expected QMP, .*got HTTP/,
    ],
  ])('%s', async (_, answer, why) => {
    const { platform, one, two, before, log, runs } = await bench();
    await runs(one, { device_del: answer });
    await runs(two);
    const moved = await platform.move(before.plugged, two, { patience: { removalMs: 50 } });
    expect(moved.server.connected).toBe(true);
    expect(one.functions).toEqual([]);
    expect(log).toEqual([expect.stringMatching(why)]);
    expect(log[0]).toContain('0000:01:00.0 was pulled out');
    await expect(before.vmm.bar0.read32(0)).rejects.toThrow();
  });

  test('its QEMU has no QMP', async () => {
    const { platform, two, before, log } = await bench();
    await platform.move(before.plugged, two);
    expect(log).toEqual([expect.stringMatching(/has not let go of it: its QEMU has no QMP at /)]);
  });

  test('on bus 0 there is no way to', async () => {
    const { vms, platform, one, two, log } = await bench();
    const { plugged } = await vms.plug(one, disk(), '00:05.0');
    await platform.move(plugged, two);
    expect(log).toEqual([expect.stringMatching(/on bus 0 a guest cannot let go/)]);
  });
});

test('a QEMU that ends while it is asked has kept nothing', async () => {
  const { platform, one, two, before, log, runs } = await bench();
  await runs(one, {
    device_del: async (_, qemu) => {
      await before.vmm[Symbol.asyncDispose]();
      while (before.plugged.server.connected) await new Promise(setImmediate);
      qemu.hangUp();
      return undefined;
    },
  });
  const moved = await platform.move(before.plugged, two);
  expect(two.functions).toEqual([moved]);
  expect(log).toEqual([]);
});

describe('a second QEMU that does not take it leaves it plugged in there, to be attached again:', () => {
  // Only who waits for what never comes is impatient.
  test.each<[string, Answer, RegExp, object?]>([
    ['it refuses', () => refused('Bus is full'), /got: QEMU refused device_add: Bus is full/],
    [
      'it never answers',
      () => undefined,
      /got: expected QEMU's reply to device_add within 0.05 s/,
      { patience: short },
    ],
    [
      'it lies',
      () => done,
      /got: expected QEMU to connect to .*and no connection/,
      { patience: short },
    ],
    [
      'it hangs up',
      (_, qemu) => {
        qemu.hangUp();
        return undefined;
      },
      /got: QEMU closed its QMP connection before it answered device_add/,
    ],
  ])('%s', async (_, answer, why, options = {}) => {
    const { platform, one, two, before, runs, once } = await bench();
    await runs(one);
    const second = await runs(two, { device_add: once(two, answer) });
    const error = await platform
      .move(before.plugged, two, options)
      .catch((reason: unknown) => reason);
    if (!(error instanceof NotInGuestError)) throw error;
    expect(error.message).toMatch(why);
    expect(error.message).toMatch(
      /guest of VM 2 to get 0001:01:00.0.*plugged in there all the same/,
    );
    expect(two.functions).toEqual([error.plugged]);
    expect(one.functions).toEqual([]);
    expect(error.plugged.server.connected).toBe(false);

    await two.attach(error.plugged);
    expect(error.plugged.server.connected).toBe(true);
    await two.attach(error.plugged); // it has it
    expect(second.asked).toEqual(['device_add port-1-function', 'device_add port-1-function']);
  });
});

test('behind a root port a function takes MSI in place of MSI-X, which QEMU cannot take out again', async () => {
  const { vms, one, before } = await bench();
  expect(await before.vmm.config.capability('msix')).toBeUndefined();
  expect(before.vmm.interruptKind).toBe('msi');
  const { vmm } = await vms.plug(one, disk(), '00:05.0');
  expect(vmm.interruptKind).toBe('msix');
});

test('behind a root port a function is traced as what it is itself, and its trace is played back', async () => {
  const { vms } = await bench();
  const trace = new Trace({ dataBytesMax: Number.POSITIVE_INFINITY });
  const machine = await vms.machineWith({ rootPorts: 1, instruments: [trace] });
  const { vmm } = await vms.plug(machine, new Adder(), '01:00.0');
  expect(vmm.interruptKind).toBe('msi');
  const numbers = vmm.memory.allocate(Uint8Array.from({ length: 9 }, (_, index) => index));
  await vmm.bar0.write32(0x08, numbers.gpa);
  await vmm.bar0.write32(0x10, numbers.length);
  await vmm.bar0.write32(0x00, 1);
  await vmm.interrupt().next();
  expect(await vmm.bar0.read32(0x14)).toBe(36);
  await vmm[Symbol.asyncDispose]();
  expect(trace.events.filter(({ kind }) => kind === 'interrupt')).toMatchObject([
    { how: 'msi-x', vector: 0 },
  ]);
  const { difference, played, inputs } = await replay(trace, () => new Adder());
  expect(difference).toBeUndefined();
  expect(played).toBe(inputs);
});

describe('a machine whose guest runs', () => {
  test('gets a function, and loses it, with nothing left of it', async () => {
    const { platform, two, runs } = await bench();
    const qemu = await runs(two);
    const plugged = await two.hotPlug(new Edu(), PORT_2);
    expect([nameOf(plugged), plugged.server.connected]).toEqual(['0001:02:00.0', true]);
    expect(await two.hotUnplug(plugged)).toBe(true);
    expect(qemu.asked).toEqual(['device_add port-2-function', 'device_del port-2-function']);
    expect(two.functions).toEqual([]);
    expect(platform.iommu.table.get(plugged.rid)).toBeUndefined();
    expect(existsSync(plugged.server.socketPath)).toBe(false);
    await expect(two.hotUnplug(plugged)).rejects.toThrow(/not plugged in/);
  });

  test('has nothing left of a function that its QEMU refuses, and says whether a guest let go', async () => {
    const { platform, two, runs, once } = await bench();
    await runs(two, {
      device_add: once(two, () => refused('no room for its BARs')),
      device_del: () => done,
    });
    await expect(two.hotPlug(new Edu(), PORT_1)).rejects.toThrow(/no room for its BARs/);
    expect(two.functions).toEqual([]);
    expect([...platform.iommu.table.entries()]).toHaveLength(1);
    const plugged = await two.hotPlug(new Edu(), PORT_1);
    expect(await two.hotUnplug(plugged, { patience: short })).toBe(false);
    expect(two.functions).toEqual([]);
  });

  test('takes none on bus 0, and one whose guest is off is told to plug it in', async () => {
    const { two, runs } = await bench();
    await expect(two.hotPlug(new Edu(), PORT_1)).rejects.toThrow(/VM 2 that runs, got none: plug/);
    await runs(two);
    await expect(two.hotPlug(new Edu(), parseRequesterId('00:05.0'))).rejects.toThrow(/bus 0/);
    expect(two.functions).toEqual([]);
  });

  test('gets several at once', async () => {
    const { two, runs } = await bench();
    const qemu = await runs(two);
    const plugged = await Promise.all([PORT_1, PORT_2].map((port) => two.hotPlug(new Edu(), port)));
    expect(plugged.every(({ server }) => server.connected)).toBe(true);
    expect(qemu.devices).toContain('port-2-function');
    while (qemu.clients > 0) await new Promise(setImmediate);
  });

  test('ends while it waits for a greeting, and who waits is told', async () => {
    const { two } = await bench();
    ends.push(await ScriptedQemu.at(two.monitor.socketPath, 2, {}, false));
    const plugging = two
      .hotPlug(new Edu(), PORT_1, { patience: { greetingMs: 600_000 } })
      .catch((reason: unknown) => reason);
    await new Promise(setImmediate);
    await two[Symbol.asyncDispose]();
    expect(String(await plugging)).toMatch(/a machine that is up, got one that ends/);
  });

  test('ends while it waits for its guest, and who waits is told', async () => {
    const { platform, one, two, before, runs } = await bench();
    const never = await runs(one, { device_del: () => undefined });
    const moving = platform.move(before.plugged, two).catch((reason: unknown) => reason);
    while (never.asked.length === 0) await new Promise(setImmediate);
    await two[Symbol.asyncDispose]();
    await one[Symbol.asyncDispose]();
    expect(String(await moving)).toMatch(/a machine that is up, got one that ends/);
    expect(existsSync(before.plugged.server.socketPath)).toBe(false);
    expect([...platform.iommu.table.entries()]).toEqual([]);
  });
});
