/** A disk that comes to a guest that runs and goes from it, with and without the guest's consent. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { doorbellsFor } from '../../../src/devices/nvme/doorbells.ts';
import { Nvme } from '../../../src/devices/nvme/nvme.ts';
import { Machine } from '../../../src/machine/machine.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { openStorage } from '../../../src/storage/open-storage.ts';
import type { VirtualMachine } from '../../../src/vm/virtual-machine.ts';

const PORT_1 = parseRequesterId('01:00.0');

const read = async (vm: VirtualMachine) =>
  await vm.check([
    ...['sh', '-c'],
    'for i in $(seq 1500); do [ -b /dev/nvme?n1 ] && break; usleep 20000; done; head -c 7 /dev/nvme?n1',
  ]);
const gone = async (vm: VirtualMachine) =>
  await vm.check([
    ...['sh', '-c'],
    'for i in $(seq 1500); do [ -e /sys/bus/pci/devices/0000:01:00.0 ] || exit 0; usleep 20000; done; exit 1',
  ]);

it('is let go of by a guest; a guest that is stopped loses it, ejects it when it goes on, and gets another', async () => {
  await using end = new AsyncDisposableStack();
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-hot-plug-'));
  end.defer(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'disk.img');
  writeFileSync(path, Buffer.alloc(2 ** 20, 'content'));
  const storage = await openStorage(path, { readOnly: false, log: () => {} });
  end.defer(() => storage.close());
  const disk = () => new Nvme({ namespaces: [{ storage }], doorbells: doorbellsFor('plain') });
  const machine = end.use(
    await Machine.create({
      ...{ parts: await ensureParts(), memory: 'plain', bytes: 256 * 2 ** 20, rootPorts: 1 },
      log: () => {}, // a QEMU whose device has gone
    }),
  );
  const vm = await machine.boot();

  const first = await machine.hotPlug(disk(), PORT_1);
  expect(await read(vm)).toBe('content');
  expect(await machine.hotUnplug(first)).toBe(true);
  await gone(vm);

  const second = await machine.hotPlug(disk(), PORT_1);
  expect(await read(vm)).toBe('content');
  await vm.qmp.execute('stop');
  expect(await machine.hotUnplug(second, { patience: { removalMs: 500 } })).toBe(false);
  expect(machine.functions).toEqual([]);
  // It is nobody's any more, and QEMU still has what is left of it.
  await expect(machine.hotPlug(disk(), PORT_1)).rejects.toThrow(/where the guest still has/);
  const deleted = vm.qmp.event('DEVICE_DELETED', 60_000);
  await vm.qmp.execute('cont');
  await deleted;
  await gone(vm);

  const third = await machine.hotPlug(disk(), PORT_1);
  expect(third.server.connected).toBe(true);
  expect(await read(vm)).toBe('content');
  expect(machine.iommu.faults.records).toEqual([]);
});
