import { describe, expect, test } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { Nvme } from '../../../src/devices/nvme/nvme.ts';
import { NvmeSubsystem } from '../../../src/devices/nvme/subsystem.ts';
import type { Machine } from '../../../src/machine/machine.ts';
import { DmaAbort, type DmaPort } from '../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { MemoryStorage } from '../../unit/devices/nvme/memory-storage.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { GPA, PAGE, Vms } from './vms.ts';

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

type Connected = Awaited<ReturnType<Vms['connect']>>['vmm'];

/** Where the MSI-X table lies (PCI Local Bus 3.0 §6.8.2.4). */
async function msixTable({ config }: Connected): Promise<{ bar: number; offset: number }> {
  const at = await config.capability('msix');
  if (at === undefined) throw new Error('expected MSI-X, got none');
  const place = await config.read32(at + 4);
  return { bar: place & 7, offset: place & ~7 };
}

/** Registers, configuration space and MSI-X table: all that a transport and a function show of themselves. */
async function shown(vmm: Connected) {
  const { bar, offset } = await msixTable(vmm);
  return {
    table: Buffer.from(await vmm.bar(bar).readBytes(offset, 64)).toString('hex'),
    config: Buffer.from(await vmm.config.readBytes(0, 256)).toString('hex'),
    registers: Buffer.from(await vmm.bar0.readBytes(0, 0x40)).toString('hex'),
  };
}

function read(port: DmaPort, at: number): { bytes: Uint8Array; reason: string | undefined } {
  const bytes = new Uint8Array(64).fill(0xee);
  try {
    port.readInto(at, bytes);
    return { bytes, reason: undefined };
  } catch (error) {
    if (error instanceof DmaAbort) return { bytes, reason: error.reason };
    throw error;
  }
}

const modes = [
  ['plain', undefined],
  ['sealed', missing],
] as const;

describe.each(modes)('a function that moves between VMs with %s memory', (mode, without) => {
  const it = test.skipIf(without !== undefined);

  const twoVms = async (vms: Vms): Promise<[Machine, Machine]> => [
    await vms.machine(),
    await vms.machine(),
  ];

  it('reaches the memory of the second, and nothing of the first', async () => {
    await using vms = await Vms.on(mode);
    const [one, two] = await twoVms(vms);
    const { platform } = vms;
    const before = await vms.plug(one, new Edu());
    before.vmm.memory.write(GPA, new Uint8Array(64).fill(1));
    expect(read(before.plugged.port, GPA).bytes[0]).toBe(1);

    const moved = await platform.move(before.plugged, two, { endpoint: new Edu() });
    expect(one.functions).toEqual([]);
    expect(two.functions).toEqual([moved]);
    expect([moved.machine, moved.rid]).toEqual([two, 0x10000 + before.plugged.rid]);
    expect(platform.iommu.table.get(before.plugged.rid)).toBeUndefined();
    expect(platform.iommu.table.get(moved.rid)).toMatchObject({ vm: two.vm, slot: two.slot });
    expect(platform.iommu.faults.total).toBe(0);
    // The port that the first VM's function had is nobody's, and what asks by it is recorded.
    const refused = read(before.plugged.port, GPA);
    expect([refused.reason, ...new Set(refused.bytes)]).toEqual(['no-device-table-entry', 0xee]);
    expect(platform.iommu.faults.records).toMatchObject([
      { rid: before.plugged.rid, vm: undefined },
    ]);
    await expect(before.vmm.bar0.read32(0)).rejects.toThrow();

    const after = await vms.connect(moved);
    after.vmm.memory.write(GPA, new Uint8Array(64).fill(2));
    expect(read(moved.port, GPA).bytes[0]).toBe(2);
    expect([...new Set(before.vmm.memory.read(GPA, 64))]).toEqual([1]);
  });

  it('shows its second VM what a function shows that nobody has had', async () => {
    await using vms = await Vms.on(mode);
    const [one, two] = await twoVms(vms);
    const subsystem = () => {
      const namespaces = [{ storage: new MemoryStorage(PAGE), function: 1 }];
      return new NvmeSubsystem({ virtualFunctions: 1, namespaces, serial: 'MOVED' });
    };
    const untouched = await vms.connect(
      two.plug(subsystem().controller(1), parseRequesterId('00:06.0')),
      { enable: false },
    );
    const fresh = await shown(untouched.vmm);

    const { plugged, vmm } = await vms.plug(one, subsystem().controller(1));
    // Queues, the controller and MSI-X enabled, a mask, BARs: whatever a driver sets.
    await vmm.bar0.write32(0x24, 0x001f_001f);
    await vmm.bar0.write64(0x28, BigInt(GPA));
    await vmm.bar0.write64(0x30, BigInt(GPA + PAGE));
    await vmm.bar0.write32(0x0c, 0xf0);
    await vmm.bar0.write32(0x14, 0x0046_0001);
    await vmm.config.write32(0x10, 0xfe00_0000);
    await vmm.config.write8(0x3c, 11);
    const { bar, offset } = await msixTable(vmm);
    await vmm.bar(bar).writeBytes(offset, new Uint8Array(64).fill(0xfe));
    // The vectors' eventfds have been handed over and MSI-X is enabled since the function was connected.
    expect(vmm.interruptKind).toBe('msix');
    const used = await shown(vmm);
    expect(used.config).not.toBe(fresh.config);
    expect(used.registers).not.toBe(fresh.registers);

    const moved = await vms.platform.move(plugged, two);
    expect(moved.endpoint).toBeInstanceOf(Nvme);
    expect(moved.endpoint).not.toBe(plugged.endpoint);
    const after = await vms.connect(moved, { enable: false });
    expect(await shown(after.vmm)).toEqual(fresh);
    expect(vms.platform.iommu.faults.total).toBe(0);
  });

  it('stays where it is when it cannot move', async () => {
    await using vms = await Vms.on(mode);
    const [one, two] = await twoVms(vms);
    await using others = await Vms.on('plain');
    const { platform } = vms;
    const { plugged } = await vms.plug(one, new Edu());
    await vms.plug(two, new Edu());
    const endpoint = new Edu();
    const place = parseRequesterId('00:07.0');
    await expect(platform.move(plugged, two, { endpoint })).rejects.toThrow(
      /00:05.0, which is taken/,
    );
    await expect(platform.move(plugged, two, { address: place })).rejects.toThrow(/handOver/);
    const other = await others.machine();
    await expect(platform.move(plugged, other, { endpoint })).rejects.toThrow(/one Platform/);
    expect(one.functions).toEqual([plugged]);
    expect(read(plugged.port, GPA).reason).toBeUndefined();
    await platform.move(plugged, two, { endpoint, address: place });
    await expect(
      platform.move(plugged, two, { endpoint: new Edu(), address: parseRequesterId('00:08.0') }),
    ).rejects.toThrow(/not plugged in/);
  });
});
