/** A machine with a virtio-iommu: where it is, what is behind it, and what the guest is told. */
import { existsSync, readFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { IdentityDomain } from '../../../src/iommu/domain.ts';
import { IOMMU_ADDRESS, Machine } from '../../../src/machine/machine.ts';
import { formatRequesterId, parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { VfioUserClient } from '../../../src/vfio-user/client/client.ts';
import { viotTable } from '../../../src/vm/acpi/viot.ts';

const CONFIG_REGION = 7;
const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function machineWith(iommu: 'virtio' | 'identity' | undefined, rootPorts = 0) {
  const machine = await Machine.create({
    ...{ parts: await ensureParts(), memory: 'plain', bytes: 64 * 2 ** 20, log: () => {} },
    rootPorts,
    ...(iommu === undefined ? {} : { iommu }),
  });
  ends.push(() => machine[Symbol.asyncDispose]());
  return machine;
}

test('it is a virtio function of type 23 at its place, which nobody else gets', async () => {
  const machine = await machineWith('virtio');
  expect(machine.functions.map(({ rid }) => formatRequesterId(rid))).toEqual(['0000:00:03.0']);
  const [plugged] = machine.functions;
  const client = await VfioUserClient.connect(plugged?.server.socketPath ?? '');
  ends.push(() => client[Symbol.dispose]());
  expect(await client.readRegister(CONFIG_REGION, 0)).toBe(((0x1040 + 23) << 16) | 0x1af4);
  expect(() => machine.plug(new Edu(), IOMMU_ADDRESS)).toThrow(/taken/);
});

test('every other function is behind it, in bypass mode, and it is not behind itself', async () => {
  const machine = await machineWith('virtio');
  const edu = machine.plug(new Edu(), parseRequesterId('00:04.0'));
  const { domains } = machine.virtioIommu ?? {};
  expect(domains?.hasEndpoint(edu.rid)).toBe(true);
  expect(domains?.hasEndpoint(IOMMU_ADDRESS)).toBe(false);
  expect(domains?.bypass).toBe(true);
  const entry = machine.iommu.table.get(edu.rid);
  expect(entry).toMatchObject({ vm: machine.vm, slot: machine.slot, rights: 'read-write' });
  expect(entry?.domain).toBeInstanceOf(IdentityDomain);
});

test('the guest gets a table of what is behind it, and the driver', async () => {
  const machine = await machineWith('virtio');
  const places = ['00:04.0', '00:06.0'].map((name) => parseRequesterId(name));
  for (const place of places) machine.plug(new Edu(), place);
  const { description } = await machine.plan({ accelerator: 'tcg' });
  const [table = ''] = description.acpiTables ?? [];
  expect(readFileSync(table)).toEqual(Buffer.from(viotTable(IOMMU_ADDRESS, places)));
  expect(description.devices.map(({ address }) => address)).toEqual([IOMMU_ADDRESS, ...places]);
  await machine[Symbol.asyncDispose]();
  expect(existsSync(table)).toBe(false);
});

test('what may come behind a root port while the guest runs is named in the table', async () => {
  const machine = await machineWith('virtio', 2);
  const places = ['00:04.0', '01:00.0', '02:00.0'].map((name) => parseRequesterId(name));
  const [first = IOMMU_ADDRESS, , last = IOMMU_ADDRESS] = places;
  machine.plug(new Edu(), first);
  machine.plug(new Edu(), last);
  const { description } = await machine.plan({ accelerator: 'tcg' });
  const [table = ''] = description.acpiTables ?? [];
  expect(readFileSync(table)).toEqual(Buffer.from(viotTable(IOMMU_ADDRESS, places)));
  expect(description.rootPorts).toBe(2);
  expect(() => machine.plug(new Edu(), parseRequesterId('03:00.0'))).toThrow(RangeError);
});

test.each([[undefined], ['identity' as const]])('with %s there is none', async (iommu) => {
  const machine = await machineWith(iommu);
  machine.plug(new Edu(), parseRequesterId('00:04.0'));
  expect(machine.virtioIommu).toBe(undefined);
  const { description } = await machine.plan({ accelerator: 'tcg' });
  expect(description.acpiTables).toEqual([]);
  expect(description.devices).toHaveLength(1);
});
