/**
 * One NVM subsystem whose functions belong to different VMs, with Linux's own nvme driver in each: patent claim 8.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NvmeSubsystem } from '../../../src/devices/nvme/subsystem.ts';
import { IdentityDomain } from '../../../src/iommu/domain.ts';
import {
  Machine,
  type MachineOptions,
  type PluggedFunction,
} from '../../../src/machine/machine.ts';
import { Platform } from '../../../src/machine/platform.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import type { BlockStorage } from '../../../src/storage/block-storage.ts';
import { openStorage } from '../../../src/storage/open-storage.ts';
import type { VirtualMachine } from '../../../src/vm/virtual-machine.ts';
import { noSealedRam } from '../../protocol/memory/sealed-bench.ts';

const MIB = 2 ** 20;
const DISK_BYTES = 4 * MIB;

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

describe.skipIf(missing !== undefined)('functions of one NVMe in three sealed VMs', () => {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-sriov-'));
  const files = [0, 1, 2].map((n) => join(directory, `${n}.img`));
  let platform: Platform;
  let storages: BlockStorage[] = [];
  const machines: Machine[] = [];
  let virtual: PluggedFunction;

  const newMachine = async (options: Partial<MachineOptions> = {}) => {
    const parts = await ensureParts();
    const machine = await Machine.create({
      ...{ platform, parts, memory: 'sealed', bytes: 256 * MIB },
      ...options,
    });
    machines.push(machine);
    return machine;
  };

  beforeAll(async () => {
    for (const path of files) writeFileSync(path, randomBytes(DISK_BYTES));
    storages = await Promise.all(
      files.map((path) => openStorage(path, { readOnly: false, log: () => undefined })),
    );
    platform = await Platform.create({ memory: 'sealed' });
  });

  afterAll(async () => {
    for (const machine of machines.reverse()) await machine[Symbol.asyncDispose]();
    await platform?.[Symbol.asyncDispose]();
    await Promise.all(storages.map((storage) => storage.close()));
    rmSync(directory, { recursive: true, force: true });
  });

  /** What a guest knows of the controllers that it has, by their identifiers. */
  const controllers = async (vm: VirtualMachine) =>
    (
      await vm.check([
        ...['sh', '-ec'],
        'cd /sys/class/nvme; for c in *; do echo $(cat $c/cntlid $c/serial $c/subsysnqn $c/state); done',
      ])
    )
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      .sort();
  const disk = async (vm: VirtualMachine, nsid: number) =>
    (
      await vm.check([
        ...['sh', '-ec'],
        `for i in $(seq 1500); do for n in /sys/block/nvme*; do [ "$(cat $n/nsid 2>/dev/null)" = ${nsid} ] && ` +
          '[ -b /dev/$(basename $n) ] && echo /dev/$(basename $n) && exit 0; done; usleep 20000; done; exit 1',
      ])
    ).trim();
  const content = async (vm: VirtualMachine, nsid: number) => {
    const path = await disk(vm, nsid);
    return (await vm.check(['sha256sum', path])).split(' ')[0];
  };
  const sha256 = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

  it('each reaches its own disk through its own VM’s key, and one moves on to a third VM while both guests run, and back', async () => {
    const subsystem = new NvmeSubsystem({
      ...{ virtualFunctions: 2, serial: 'SRIOV1', doorbells: 'message' },
      namespaces: storages.map((storage, index) => ({ storage, function: index })),
    });
    const [first, second] = [await newMachine({ rootPorts: 1 }), await newMachine()];
    first.plug(subsystem.controller(0), parseRequesterId('00:04.0'));
    virtual = first.plug(subsystem.controller(1), parseRequesterId('01:00.0'));
    second.plug(subsystem.controller(2), parseRequesterId('00:04.0'));
    const [one, two] = await Promise.all([first.boot(), second.boot()]);

    const nqn = (await controllers(two))[0]?.[2];
    expect(await controllers(one)).toEqual([
      ['1', 'SRIOV1', nqn, 'live'],
      ['2', 'SRIOV1', nqn, 'live'],
    ]);
    expect(await controllers(two)).toEqual([['3', 'SRIOV1', nqn, 'live']]);
    for (const [index, vm] of [one, one, two].entries()) {
      expect(await content(vm, index + 1)).toBe(sha256(files[index] ?? ''));
    }
    await one.check(['sh', '-c', `echo of one | dd of=${await disk(one, 2)} conv=notrunc,fsync`]);
    expect(
      readFileSync(files[1] ?? '')
        .subarray(0, 7)
        .toString(),
    ).toBe('of one\n');
    expect(platform.iommu.faults.records).toEqual([]);

    // The first guest lets go of it and goes on with the physical function; the third finds it behind its IOMMU.
    const third = await newMachine({ rootPorts: 1, iommu: 'virtio' });
    const three = await third.boot();
    await three.insmod('virtio_iommu');
    const moved = await platform.move(virtual, third);
    expect([moved.address, moved.server.connected]).toEqual([parseRequesterId('01:00.0'), true]);
    expect(platform.iommu.table.get(moved.rid)).toMatchObject({ vm: third.vm, slot: third.slot });
    expect(await content(three, 2)).toBe(sha256(files[1] ?? ''));
    expect(await controllers(three)).toEqual([['2', 'SRIOV1', nqn, 'live']]);
    expect(await controllers(one)).toEqual([['1', 'SRIOV1', nqn, 'live']]);
    const group = 'ls /sys/bus/pci/devices/0000:01:00.0/iommu_group/devices';
    expect(await three.check(['sh', '-c', group])).toBe('0000:01:00.0\n');
    expect(platform.iommu.table.get(moved.rid)?.domain).not.toBeInstanceOf(IdentityDomain);
    await three.check([
      'sh',
      '-c',
      `echo of three | dd of=${await disk(three, 2)} conv=notrunc,fsync`,
    ]);

    const back = await platform.move(moved, first);
    expect(platform.iommu.table.get(back.rid)).toMatchObject({ vm: first.vm, slot: first.slot });
    expect(platform.iommu.table.get(moved.rid)).toBeUndefined();
    expect(await content(one, 2)).toBe(sha256(files[1] ?? ''));
    expect(readFileSync(files[1] ?? '').subarray(0, 9)).toEqual(Buffer.from('of three\n'));
    expect(await three.check(['sh', '-c', 'ls /sys/class/nvme'])).toBe('');
    expect(await content(one, 1)).toBe(sha256(files[0] ?? ''));
    expect(await content(two, 3)).toBe(sha256(files[2] ?? ''));
    expect(platform.iommu.faults.records).toEqual([]);
  });
});
