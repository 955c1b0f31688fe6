import { existsSync, readdirSync, readFileSync, unlinkSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { DEVICE_TABLE_ENTRIES } from '../../../src/iommu/device-table.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { Machine, type MachineOptions } from '../../../src/machine/machine.ts';
import { Platform } from '../../../src/machine/platform.ts';
import type { Iova } from '../../../src/pci/dma-port.ts';
import { parseRequesterId, type RequesterId } from '../../../src/pci/requester-id.ts';
import { ensureLibvfioUser } from '../../../src/setup/ensure-libvfio-user.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { equalBlocks } from './equal-blocks.ts';

const BYTES = 64 * 2 ** 20;
const GPA = 0x10_0000;
const PAGE = 4096;
const ADDRESS = parseRequesterId('00:05.0');

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
});

async function platformOf(memory: 'sealed' | 'plain') {
  const platform = await Platform.create({ memory, log: () => {} });
  ends.push(platform);
  return platform;
}

/** A VM whose VMM is a client that has lent a function its memory. */
async function vmOn(platform: Platform, options: Partial<MachineOptions> = {}) {
  const parts = { libvfioUser: await ensureLibvfioUser() };
  const memory = platform.mode;
  const machine = await Machine.create({ platform, parts, memory, bytes: BYTES, ...options });
  ends.push(machine);
  const plugged = machine.plug(new Edu(), ADDRESS);
  const file = machine.sealed?.path;
  const vmm = await Vmm.connect(plugged.server.socketPath, {
    ...{ bytes: BYTES, gpa: GPA },
    ...(file === undefined ? {} : { file }),
  });
  ends.push(vmm);
  const { port } = plugged;
  const read = (gpa: number, length: number) => {
    const into = new Uint8Array(length).fill(0xee);
    try {
      port.readInto(gpa as Iova, into);
      return { into, reason: undefined };
    } catch (error) {
      return { into, reason: (error as { reason?: string }).reason };
    }
  };
  return { machine, plugged, vmm, read, port };
}

type Vm = Awaited<ReturnType<typeof vmOn>>;

async function end({ machine, vmm }: Vm): Promise<void> {
  await vmm[Symbol.asyncDispose]();
  await machine[Symbol.asyncDispose]();
}

const modes = [
  ['plain', undefined],
  ['sealed', noSealedRam()],
] as const;

describe.each(modes)('two VMs on one platform with %s memory', (mode, missing) => {
  test.skipIf(missing !== undefined)(
    'the same address is another requester ID in each, and reaches its own memory alone',
    async () => {
      const platform = await platformOf(mode);
      const one = await vmOn(platform);
      const two = await vmOn(platform);
      expect([one.plugged.rid, two.plugged.rid]).toEqual([ADDRESS, 0x10000 + ADDRESS]);
      expect([one.machine.vm, two.machine.vm]).toEqual([1, 2]);
      expect([one.machine.slot, two.machine.slot]).toEqual([1, 2]);
      expect(two.plugged.address).toBe(ADDRESS);
      one.vmm.memory.write(GPA, new Uint8Array(64).fill(1));
      two.vmm.memory.write(GPA, new Uint8Array(64).fill(2));
      expect(new Set(one.read(GPA, 64).into)).toEqual(new Set([1]));
      expect(new Set(two.read(GPA, 64).into)).toEqual(new Set([2]));
      one.port.writeFrom(GPA as Iova, new Uint8Array(64).fill(3));
      expect(new Set(two.vmm.memory.read(GPA, 64))).toEqual(new Set([2]));
    },
  );

  test.skipIf(missing !== undefined)(
    'an entry with the other’s slot is refused and recorded; nothing is disclosed or changed',
    async () => {
      const platform = await platformOf(mode);
      const one = await vmOn(platform);
      const two = await vmOn(platform);
      two.vmm.memory.write(GPA, new Uint8Array(64).fill(2));
      const { table, faults } = platform.iommu;
      const entry = table.get(one.plugged.rid);
      if (entry === undefined) throw new Error('expected an entry');
      table.set(one.plugged.rid, { ...entry, slotFrom: 'device-table', slot: two.machine.slot });
      const refused = one.read(GPA, 64);
      expect(refused.reason).toBe('slot-of-another-vm');
      expect(new Set(refused.into)).toEqual(new Set([0xee]));
      expect(() => one.port.writeFrom(GPA as Iova, new Uint8Array(64).fill(9))).toThrow();
      expect(
        faults.records.map(({ rid, reason, vm, slot }) => ({ rid, reason, vm, slot })),
      ).toEqual(new Array(2).fill({ rid: ADDRESS, reason: 'slot-of-another-vm', vm: 1, slot: 2 }));
      expect(new Set(two.vmm.memory.read(GPA, 64))).toEqual(new Set([2]));
      // With the other's VM named as well, the memory behind the port is still its own function's.
      table.set(one.plugged.rid, {
        ...entry,
        ...{ slotFrom: 'device-table', slot: two.machine.slot, vm: two.machine.vm },
      });
      expect(one.read(GPA, 64).into.includes(2)).toBe(false);
    },
  );

  test.skipIf(missing !== undefined)(
    'one ends while the other’s DMA goes on; its slot and its entries are free again',
    async () => {
      const platform = await platformOf(mode);
      const one = await vmOn(platform);
      const two = await vmOn(platform);
      const bytes = Uint8Array.from({ length: PAGE }, (_, at) => at % 251);
      two.vmm.memory.write(GPA, bytes);
      let going = true;
      let done = 0;
      const traffic = (async () => {
        for (; going; done++) {
          const { into, reason } = two.read(GPA, PAGE);
          if (reason !== undefined) throw new Error(`expected the DMA to be done, got ${reason}`);
          expect(into).toEqual(bytes);
          await turn();
        }
      })();
      const path = one.machine.sealed?.path;
      await end(one);
      const before = done;
      while (done < before + 10) await turn();
      going = false;
      await traffic;
      expect(platform.iommu.faults.total).toBe(0);
      expect([...platform.iommu.table.entries()].map(([rid]) => rid)).toEqual([two.plugged.rid]);
      expect(platform.keys.list().map(({ slot }) => slot)).toEqual([two.machine.slot]);
      expect(platform.tenants.size).toBe(1);
      if (path !== undefined) expect(existsSync(path)).toBe(false);

      // The slot serves the next VM, whose number and segment are new.
      const three = await vmOn(platform);
      expect([three.machine.vm, three.machine.slot, three.plugged.rid]).toEqual([
        ...[3, 1, 0x20000 + ADDRESS],
      ]);
      expect(new Set(three.read(GPA, PAGE).into)).toEqual(new Set([0]));
    },
  );

  test.skipIf(missing !== undefined)('a slot is one VM’s', async () => {
    const platform = await platformOf(mode);
    const slot = keySlot(7);
    const [first] = await Promise.all([
      vmOn(platform, { slot }),
      expect(vmOn(platform, { slot })).rejects.toThrow(/slot 7, which is taken/),
    ]);
    expect(first.machine.slot).toBe(7);
    await expect(platform.addSlot(slot, vmId(9))).rejects.toThrow(/taken/);
  });
});

describe.skipIf(noSealedRam() !== undefined)('sealed memories of two VMs', () => {
  test('the same content in the same pages has no 16-byte block of ciphertext in common', async () => {
    const platform = await platformOf('sealed');
    const vms = [await vmOn(platform), await vmOn(platform)];
    const pages = 64;
    // Few different blocks, many times over: a key that two had in common would show at once.
    const content = Uint8Array.from({ length: pages * PAGE }, (_, at) => (at >> 4) % 3);
    for (const { vmm, machine } of vms) {
      vmm.memory.write(GPA, content);
      await machine.sealed?.flush();
    }
    const [one, two] = vms.map(({ machine }) =>
      (machine.sealed?.dram() ?? new Uint8Array(0)).slice(0, pages * PAGE),
    );
    if (one === undefined || two === undefined) throw new Error('expected two memories');
    expect(one.every((byte) => byte === 0)).toBe(false);
    expect(equalBlocks(one, two)).toBe(0);
    // That the count can see one at all:
    two.set(one.subarray(160, 176), 4096);
    expect(equalBlocks(one, two)).toBe(1);
  });

  test('a memory controller that dies takes both with it, each with its word', async () => {
    const platform = await platformOf('sealed');
    const vms = [await vmOn(platform), await vmOn(platform)];
    process.kill(platform.controller?.pid ?? 0, 'SIGKILL');
    while (!platform.lost.aborted) await turn();
    for (const { read } of vms) expect(read(GPA, 64).reason).toBe('memory-failed');
    await expect(vmOn(platform)).rejects.toThrow(/memory controller/);
    for (const vm of vms) await end(vm);
  });

  test('fifty VMs come and go, and leave no descriptor, mapping or file behind', async () => {
    const platform = await platformOf('sealed');
    const stays = await vmOn(platform);
    const files = () => readdirSync(platform.run.ram).sort();
    const descriptors = () => readdirSync('/proc/self/fd').length;
    const controllerMaps = () =>
      readFileSync(`/proc/${platform.controller?.pid}/maps`, 'utf8')
        .split('\n')
        .filter((line) => /sealbus-(dram|gate)-/.test(line)).length;
    await end(await vmOn(platform));
    const before = { files: files(), descriptors: descriptors(), maps: controllerMaps() };
    for (let vm = 0; vm < 50; vm++) {
      const { machine, vmm } = await vmOn(platform);
      vmm.memory.write(GPA, new Uint8Array(PAGE).fill(vm + 1));
      await vmm[Symbol.asyncDispose]();
      await machine[Symbol.asyncDispose]();
    }
    expect({ files: files(), descriptors: descriptors(), maps: controllerMaps() }).toEqual(before);
    expect(stays.read(GPA, 16).reason).toBe(undefined);
  });

  test('RAM is not to be lost by an rm', async () => {
    const { machine } = await vmOn(await platformOf('sealed'));
    expect(() => unlinkSync(machine.sealed?.path ?? '')).toThrow(/EPERM/);
  });
});

test('what a shared platform cannot give is refused in words', async () => {
  const platform = await platformOf('plain');
  await expect(vmOn(platform, { memory: 'sealed' })).rejects.toThrow(/plain/);
  const { machine } = await vmOn(platform);
  expect(() => machine.plug(new Edu(), parseRequesterId('0001:00:06.0'))).toThrow(/segment 0/);
});

test('a function for which the device table has no room leaves no server behind', async () => {
  const platform = await platformOf('plain');
  const { machine, plugged } = await vmOn(platform);
  const { table } = platform.iommu;
  const entry = table.get(plugged.rid);
  if (entry === undefined) throw new Error('expected an entry of the function');
  for (let other = 0x10000; table.size < DEVICE_TABLE_ENTRIES; other++) {
    table.set(other as RequesterId, entry);
  }
  const files = () => readdirSync(platform.run.path).sort();
  const before = files();
  expect(() => machine.plug(new Edu(), parseRequesterId('00:06.0'))).toThrow(/at most 65536/);
  expect([files(), machine.functions]).toEqual([before, [plugged]]);
  table.delete(0x10000 as RequesterId);
  expect(machine.plug(new Edu(), parseRequesterId('00:06.0')).server.connected).toBe(false);
});
