/** As many virtual functions as a subsystem has at the most, each in a VM of its own: no two have anything in common. */
import { describe, expect, test } from 'vitest';
import { NvmeSubsystem } from '../../../src/devices/nvme/subsystem.ts';
import { VIRTUAL_FUNCTIONS_MAX } from '../../../src/devices/nvme/subsystem-place.ts';
import type { AccessSlot } from '../../../src/keys/key-slot.ts';
import type { Machine, PluggedFunction } from '../../../src/machine/machine.ts';
import { parseRequesterId, type RequesterId } from '../../../src/pci/requester-id.ts';
import { MemoryStorage } from '../../unit/devices/nvme/memory-storage.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { NvmeClient } from '../serve/nvme-client.ts';
import { PAGE, Vms } from './vms.ts';

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

/** Of the VMs on a platform that seals, one in so many is sealed. */
const SEALED_EACH = 8;
/** Temperature threshold (NVMe 1.4 §5.21.1.4): any feature that a controller holds for its VM. */
const THRESHOLD = 0x04;
const THRESHOLD_DEFAULT = 343;
const MOVED = 17;
const TO = 42;

type Through = readonly [RequesterId, AccessSlot];

interface Having {
  readonly number: number;
  readonly machine: Machine;
  readonly plugged: PluggedFunction;
  readonly driver: NvmeClient;
  /** Which function's DMA went through which slot in its VM, since it was last asked. */
  readonly dma: () => Through[];
}

function dmaOf({ iommu, vm }: Machine): () => Through[] {
  const seen = new Map<string, Through>();
  // The first VM has segment 0.
  iommu.segment(vm - 1).observer = {
    done: ({ rid, pieces, first, end }) => {
      for (const { slot } of pieces.slice(first, end)) seen.set(`${rid} ${slot}`, [rid, slot]);
    },
  };
  return () => {
    const found = [...seen.values()];
    seen.clear();
    return found;
  };
}

/** What one has, and by which DMA it came to its VM. */
async function look({ number, driver, dma }: Having) {
  dma();
  const { controller, nsids } = await driver.identity();
  const block = new Set((await driver.read(number)).bytes(0, 512));
  const threshold = await driver.feature(THRESHOLD);
  return { controller, nsids, block: [...block], threshold, dma: dma() };
}

function expected({ number, machine, plugged }: Omit<Having, 'driver' | 'dma'>) {
  return {
    ...{ controller: number + 1, nsids: [number], block: [number], threshold: 300 + number },
    dma: [[plugged.rid, machine.slot]],
  };
}

function different(values: readonly unknown[]): number {
  return new Set(values).size;
}

describe.each([
  ['plain', undefined],
  ['sealed', missing],
] as const)('on a platform with %s memory', (mode, without) => {
  const it = test.skipIf(without !== undefined);

  it('64 virtual functions are in 64 VMs, and one moves while the others work', async () => {
    await using vms = await Vms.on(mode);
    const { platform } = vms;
    const { table, faults } = platform.iommu;
    const numbers = Array.from({ length: VIRTUAL_FUNCTIONS_MAX }, (_, index) => index + 1);
    const subsystem = new NvmeSubsystem({
      ...{ virtualFunctions: VIRTUAL_FUNCTIONS_MAX, serial: 'MANY', doorbells: 'message' },
      namespaces: numbers.map((number) => {
        const storage = new MemoryStorage(PAGE);
        storage.content.fill(number);
        return { storage, function: number };
      }),
    });
    const have = async (number: number): Promise<Having> => {
      const sealed = mode === 'sealed' && number % SEALED_EACH === 1;
      const machine = await vms.machineWith({ memory: sealed ? 'sealed' : 'plain' });
      const dma = dmaOf(machine);
      const { plugged, vmm } = await vms.plug(machine, subsystem.controller(number));
      const driver = await NvmeClient.probe(vmm);
      await driver.setFeature(THRESHOLD, 300 + number);
      return { number, machine, plugged, driver, dma };
    };

    const all = await Promise.all(numbers.map(have));
    expect(all.length).toBe(64);
    expect(different(all.map(({ plugged }) => plugged.rid))).toBe(64);
    expect(different(all.map(({ machine }) => machine.slot))).toBe(64);
    expect(different(all.map(({ machine }) => machine.vm))).toBe(64);
    expect(subsystem.given).toEqual(numbers);
    expect(await Promise.all(all.map(look))).toEqual(all.map(expected));

    const [from, to] = [all[MOVED - 1], all[TO - 1]] as [Having, Having];
    const staying = all.filter((one) => one !== from);
    const entries = staying.map(({ plugged }) => table.get(plugged.rid));
    const address = parseRequesterId('00:06.0');
    from.dma();
    const [moved, ...seen] = await Promise.all([
      platform.move(from.plugged, to.machine, { address }),
      ...staying.map(look),
    ]);
    expect(seen).toEqual(staying.map(expected));
    expect(table.get(from.plugged.rid)).toBeUndefined();
    for (const [at, { plugged, machine }] of staying.entries()) {
      expect(table.get(plugged.rid)).toBe(entries[at]);
      expect(entries[at]).toMatchObject({ vm: machine.vm, slot: machine.slot });
    }
    expect(await Promise.all(staying.map(look))).toEqual(staying.map(expected));
    expect(from.dma()).toEqual([]);

    // In its new VM it begins anew, through that one's slot, beside the function that was there.
    const { vmm } = await vms.connect(moved);
    const arrived = { ...to, number: MOVED, plugged: moved, driver: await NvmeClient.probe(vmm) };
    expect(await look(arrived)).toEqual({ ...expected(arrived), threshold: THRESHOLD_DEFAULT });
    expect(await look(to)).toEqual(expected(to));
    expect(faults.total).toBe(0);
  });
});
