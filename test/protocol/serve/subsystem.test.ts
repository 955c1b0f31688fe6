/** NVM subsystems of a service: functions of one in several VMs, as they come, move and go. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openStorage } from '../../../src/storage/open-storage.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { NvmeClient } from './nvme-client.ts';
import { type Bench, fileIn, MIB, serviceBench } from './service-bench.ts';

/** Temperature threshold (NVMe 1.4 §5.21.1.4): any feature that a controller holds for its VM. */
const THRESHOLD = 0x04;

let directory: string;
const ends: AsyncDisposable[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-subsystem-'));
});
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

/** A disk whose first block is its name, and nothing else. */
function disk(name: string, function_?: number) {
  const bytes = Buffer.alloc(MIB);
  bytes.subarray(0, 512).fill(`${name} `);
  const file = fileIn(directory, name, bytes);
  return function_ === undefined ? { file } : { file, function: function_ };
}

const pool = () => ({
  name: 'pool',
  'virtual-functions': 3,
  namespaces: [disk('zero', 0), disk('one', 1), disk('two', 2), disk('spare')],
});

const vm = (name: string, number: number | undefined, more: object = {}) => ({
  ...{ name, size: '64M' },
  functions:
    number === undefined
      ? []
      : [{ device: 'nvme', subsystem: 'pool', function: number, at: '00:05.0' }],
  ...more,
});

async function bench(memory: 'sealed' | 'plain', ...vms: object[]): Promise<Bench> {
  const held = vms.map((one) => ({ memory, ...one }));
  const config = JSON.stringify({ subsystems: [pool()], vms: held });
  const made = await serviceBench(config, { memory });
  ends.push(made);
  return made;
}

const add = ({ client }: Bench, config: object) =>
  client.ask('vm-add', { text: JSON.stringify(config), file: 'more.yaml', directory });

async function driver(made: Bench, name: string): Promise<NvmeClient> {
  return await NvmeClient.probe(await made.vmm(name));
}

/** The words with which a block begins. */
async function label(client: NvmeClient, nsid: number): Promise<string> {
  const [word = ''] = Buffer.from((await client.read(nsid)).bytes(0, 64))
    .toString()
    .split(' ');
  return word;
}

const locked = (file: string) =>
  openStorage(join(directory, file), { readOnly: false, log: () => {} }).then(
    async (storage) => {
      await storage.close();
      return false;
    },
    () => true,
  );

describe.each([['sealed', noSealedRam()] as const, ['plain', undefined] as const])(
  'with %s memory',
  (memory, missing) => {
    const it = test.skipIf(missing !== undefined);

    it('functions of one subsystem reach their VMs’ memory, each through its VM’s own key', async () => {
      const made = await bench(memory, vm('alpha', 1), vm('beta', 2));
      const { client, service } = made;
      const [one, two] = [await driver(made, 'alpha'), await driver(made, 'beta')];
      expect(await one.identity()).toEqual({ serial: 'pool', controller: 2, nsids: [2] });
      expect(await two.identity()).toEqual({ serial: 'pool', controller: 3, nsids: [3] });
      expect([await label(one, 2), await label(two, 3)]).toEqual(['one', 'two']);
      await expect(label(one, 3)).rejects.toThrow(/status/);
      const bytes = randomBytes(512);
      await one.write(2, bytes);
      expect(readFileSync(join(directory, 'one')).subarray(0, 512)).toEqual(bytes);
      const { faults } = service.host.platform.iommu;
      expect(faults.total).toBe(0);
      const { sealed } = service.host.vm('alpha').machine;
      await sealed?.flush();
      if (sealed !== undefined) {
        expect(Buffer.from(sealed.dram()).includes('one one one one ')).toBe(false);
      }

      expect(await client.ask('ps', {})).toMatchObject([
        { name: 'alpha', ofSubsystems: [{ name: 'pool', function: 1 }] },
        { name: 'beta', ofSubsystems: [{ name: 'pool', function: 2 }] },
      ]);
      expect((await client.ask('inspect', { vm: 'beta' })).functions).toMatchObject([
        { device: 'nvme', subsystem: { name: 'pool', function: 2 }, entry: { vm: 2, slot: 2 } },
      ]);

      // The key of one is gone: its function reaches nothing, the other's goes on.
      await client.ask('key-revoke', { slot: 'alpha' });
      await one.ring(2);
      for (let tries = 0; faults.total === 0 && tries < 1000; tries++) {
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      expect(faults.records).toMatchObject([{ vm: 1, slot: 1, reason: 'slot-not-active' }]);
      expect(await label(two, 3)).toBe('two');
    });

    it('one that is moved has its namespaces there, and nothing of its first VM', async () => {
      const made = await bench(memory, vm('alpha', 1), vm('beta', undefined));
      const { client, service } = made;
      const first = await driver(made, 'alpha');
      const fresh = await first.feature(THRESHOLD);
      await first.setFeature(THRESHOLD, 0x111);
      expect(await first.feature(THRESHOLD)).toBe(0x111);
      const { functions } = await client.ask('inspect', { vm: 'alpha' });
      const seen = service.host.recorder.lines.length;

      const moved = await client.ask('bind', { rid: functions[0]?.rid ?? '', target: 'beta' });
      expect(moved).toMatchObject({
        ...{ rid: '0001:00:05.0', subsystem: { name: 'pool', function: 1 } },
        entry: { vm: 2, slot: 2 },
      });
      await expect(label(first, 2)).rejects.toThrow();
      const second = await driver(made, 'beta');
      expect(await second.identity()).toEqual({ serial: 'pool', controller: 2, nsids: [2] });
      expect([await second.feature(THRESHOLD), await label(second, 2)]).toEqual([fresh, 'one']);

      expect(await client.ask('subsystem-inspect', { subsystem: 'pool' })).toMatchObject({
        functions: [
          { function: 0, vm: null, rid: null, namespaces: [1] },
          { function: 1, vm: 'beta', rid: '0001:00:05.0', namespaces: [2] },
          { function: 2, vm: null, rid: null, namespaces: [3] },
          { function: 3, vm: null, rid: null, namespaces: [] },
        ],
      });
      expect(service.host.recorder.lines.slice(seen)).toMatchObject([
        { event: 'binding', rid: '0000:00:05.0', vm: 1, reason: 'unbound' },
        { event: 'binding', rid: '0001:00:05.0', vm: 2, slot: 2, reason: 'bound' },
      ]);
      const { command } = await client.ask('inspect', { vm: 'beta' });
      expect(command).toContain(moved.socket);
    });

    it('a VM that goes gives its functions back, and the next one has nothing of it', async () => {
      const made = await bench(memory, vm('alpha', 1), vm('beta', 2));
      const first = await driver(made, 'alpha');
      const fresh = await first.feature(THRESHOLD);
      await first.setFeature(THRESHOLD, 0x111);
      await first.write(2, Buffer.alloc(512, 'left '));
      const taken = { vms: [vm('gamma', 1, { memory })] };
      await expect(add(made, taken)).rejects.toThrow(
        /more\.yaml:1: vms\[0\]\.functions\[0\]\.function: expected a function that no VM has, got function 1 of pool/,
      );
      await made.client.ask('vm-remove', { vm: 'alpha' });
      // The disk stays open: nobody else gets it meanwhile.
      expect(await locked('one')).toBe(true);
      await add(made, taken);
      const next = await driver(made, 'gamma');
      expect(await next.identity()).toEqual({ serial: 'pool', controller: 2, nsids: [2] });
      // What is on the disk is the subsystem's, and goes with it.
      expect([await next.feature(THRESHOLD), await label(next, 2)]).toEqual([fresh, 'left']);
      expect(made.service.host.platform.iommu.faults.total).toBe(0);
    });
  },
);

describe('a configuration that is added', () => {
  test('brings subsystems, or names those that are there', async () => {
    const made = await bench('plain', vm('alpha', 1));
    const more = { name: 'more', 'virtual-functions': 1, namespaces: [disk('extra', 1)] };
    const functions = [
      { device: 'nvme', subsystem: 'more', function: 1, at: '00:05.0' },
      { device: 'nvme', subsystem: 'pool', function: 0, at: '00:06.0' },
    ];
    const both = { subsystems: [more], vms: [vm('beta', 1, { memory: 'plain', functions })] };
    expect(await add(made, both)).toMatchObject([
      {
        functions: [
          { subsystem: { name: 'more', function: 1 } },
          { subsystem: { name: 'pool', function: 0 } },
        ],
      },
    ]);
    expect(await made.client.ask('subsystems', {})).toEqual([
      {
        ...{ name: 'pool', virtualFunctions: 3, namespaces: 4 },
        given: [
          { function: 0, vm: 'beta', rid: '0001:00:06.0' },
          { function: 1, vm: 'alpha', rid: '0000:00:05.0' },
        ],
      },
      {
        ...{ name: 'more', virtualFunctions: 1, namespaces: 1 },
        given: [{ function: 1, vm: 'beta', rid: '0001:00:05.0' }],
      },
    ]);
    await expect(add(made, both)).rejects.toThrow(/1: subsystems\[0\]: expected a new name/);
    await expect(add(made, { vms: [vm('gamma', 4)] })).rejects.toThrow(
      /functions\[0\]\.function: expected a function of pool, 0 to 3, got 4/,
    );
  });

  test('and fails leaves functions free, and closes what it has brought', async () => {
    const made = await bench('plain', vm('alpha', 1));
    const more = { name: 'more', 'virtual-functions': 1, namespaces: [disk('extra')] };
    const plain = { memory: 'plain' };
    const bad = { device: 'nvme', disks: ['no.img'], at: '00:07.0' };
    const good = vm('beta', 2, plain);
    const failing = vm('gamma', 3, plain);
    await expect(
      add(made, {
        subsystems: [more],
        vms: [good, { ...failing, functions: [...failing.functions, bad] }],
      }),
    ).rejects.toThrow(/1: vms\[1\]\.functions\[1\]\.disks\[0\]: .*no\.img/);
    expect((await made.client.ask('subsystems', {})).map(({ name }) => name)).toEqual(['pool']);
    expect([await locked('extra'), await locked('one')]).toEqual([false, true]);
    expect(made.service.host.vms.map(({ name }) => name)).toEqual(['alpha']);
    await add(made, { vms: [good, failing] });
    // A disk that a subsystem has is in use, and so is one of a VM for a subsystem.
    const other = { ...more, namespaces: [{ file: join(directory, 'one') }] };
    await expect(add(made, { subsystems: [other], vms: [vm('delta', undefined)] })).rejects.toThrow(
      /1: subsystems\[0\]\.namespaces\[0\]: .*one/,
    );
  });
});

test('a function that was pulled out and has no place where it was to go is free', async () => {
  const made = await bench('plain', vm('alpha', 1), vm('beta', undefined));
  const { client, service } = made;
  // What is in the way of its server's socket.
  const inTheWay = service.host.platform.run.socket('0001-00-05-0');
  fileIn('/', inTheWay, 'no socket');
  await expect(client.ask('bind', { rid: '00:05.0', target: 'beta' })).rejects.toThrow(/no socket/);
  rmSync(inTheWay);
  expect(await client.ask('subsystems', {})).toMatchObject([{ name: 'pool', given: [] }]);
  await add(made, { vms: [vm('gamma', 1, { memory: 'plain' })] });
  expect(await label(await driver(made, 'gamma'), 2)).toBe('one');
});

describe('a namespace', () => {
  const assign = ({ client }: Bench, nsid: number, function_: number | null) =>
    client.ask('subsystem-assign', { subsystem: 'pool', nsid, function: function_ });

  test('that is assigned is the function’s once it is given to a VM again', async () => {
    const made = await bench('plain', vm('alpha', 1), vm('beta', undefined));
    const { client, service } = made;
    const first = await driver(made, 'alpha');
    expect(await assign(made, 4, 1)).toMatchObject({
      ...{ nsid: 4, function: 1, heldBy: null, vm: null, pending: true },
    });
    expect(await assign(made, 2, null)).toMatchObject({
      ...{ nsid: 2, function: null, heldBy: 1, vm: 'alpha', pending: true },
    });
    expect((await first.identity()).nsids).toEqual([2]);
    const { functions } = await client.ask('subsystem-inspect', { subsystem: 'pool' });
    expect(functions.map(({ namespaces }) => namespaces)).toEqual([[1], [2], [3], []]);
    // It is in a controller still, where its VM reads and writes it.
    await expect(assign(made, 2, 3)).rejects.toThrow(/controller that function 1 has now/);
    await expect(assign(made, 3, 1)).rejects.toThrow(/function 2's/);
    await expect(assign(made, 5, 1)).rejects.toThrow(/NSID from 1 to 4, got 5/);
    await expect(assign(made, 2, 4)).rejects.toThrow(/function from 0 to 3, got 4/);

    await client.ask('bind', { rid: '00:05.0', target: 'beta' });
    const second = await driver(made, 'beta');
    expect((await second.identity()).nsids).toEqual([4]);
    expect(await label(second, 4)).toBe('spare');
    expect(await assign(made, 2, 3)).toMatchObject({ function: 3, heldBy: null, pending: false });
    expect(service.host.recorder.lines.filter(({ event }) => event === 'subsystem')).toMatchObject([
      { reason: 'added', name: 'pool' },
      { reason: 'assigned', name: 'pool', nsid: 4, function: 1 },
      { reason: 'assigned', name: 'pool', nsid: 2, function: null },
      { reason: 'assigned', name: 'pool', nsid: 2, function: 3 },
    ]);
    expect(await client.ask('metrics', {})).toContain(
      'sealbus_events_total{event="subsystem",reason="assigned"} 3\n',
    );
  });

  test('of a function that no VM has is its at once', async () => {
    const made = await bench('plain', vm('alpha', undefined));
    expect(await assign(made, 4, 3)).toMatchObject({ function: 3, pending: false });
    await add(made, { vms: [vm('beta', 3, { memory: 'plain' })] });
    const beta = await driver(made, 'beta');
    expect((await beta.identity()).nsids).toEqual([4]);
  });
});

test('a subsystem is removed when no VM has a function of it', async () => {
  const made = await bench('plain', vm('alpha', 1), vm('beta', 2));
  const { client } = made;
  const remove = () => client.ask('subsystem-remove', { subsystem: 'pool' });
  await expect(remove()).rejects.toThrow(/pool: function 1 is alpha's, function 2 is beta's/);
  await client.ask('vm-remove', { vm: 'alpha' });
  await expect(remove()).rejects.toThrow(/pool: function 2 is beta's/);
  await client.ask('vm-remove', { vm: 'beta' });
  expect(await locked('two')).toBe(true);
  await remove();
  for (const file of ['zero', 'one', 'two', 'spare']) expect(await locked(file)).toBe(false);
  expect(await client.ask('subsystems', {})).toEqual([]);
  await expect(remove()).rejects.toThrow(/name of a subsystem \(none\), got "pool"/);
  await expect(add(made, { vms: [vm('gamma', 1)] })).rejects.toThrow(/\(none\), got pool/);
});

test('the end of the service closes the disks, after the functions', async () => {
  const made = await bench('plain', vm('alpha', 1));
  const client = await driver(made, 'alpha');
  await client.write(2, Buffer.alloc(512, 'last '));
  const lines = made.service.host.recorder.lines;
  await made[Symbol.asyncDispose]();
  expect(await locked('one')).toBe(false);
  expect(lines.slice(-2)).toMatchObject([
    { event: 'vm', name: 'alpha', reason: 'removed' },
    { event: 'subsystem', name: 'pool', reason: 'removed' },
  ]);
});
