/** VMs and subsystems that several change at the same time, and the host's end in the middle of it. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Iova } from '../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { parseServeConfig } from '../../../src/serve/config/parse-serve-config.ts';
import type { VmHost } from '../../../src/serve/vm-host.ts';
import { openStorage } from '../../../src/storage/open-storage.ts';
import { type Bench, fileIn, MIB, serviceBench } from './service-bench.ts';

let directory: string;
const ends: AsyncDisposable[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-vm-host-'));
});
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

const disk = (name: string) => fileIn(directory, name, Buffer.alloc(MIB));

const subsystem = (name: string, file = disk(name)) => ({
  ...{ name, 'virtual-functions': 1, namespaces: [{ file, function: 1 }] },
});

const vm = (name: string, of?: string, more: object = {}) => ({
  ...{ name, size: '64M', memory: 'plain' },
  functions:
    of === undefined ? [] : [{ device: 'nvme', subsystem: of, function: 1, at: '00:05.0' }],
  ...more,
});

async function bench(...vms: object[]): Promise<Bench> {
  const config = JSON.stringify({ subsystems: [subsystem('pool')], vms });
  const made = await serviceBench(config, { memory: 'plain' });
  ends.push(made);
  return made;
}

const config = (host: VmHost, content: object) =>
  parseServeConfig(JSON.stringify(content), 'more.yaml', directory, host.subsystems.known);

/** Does something as soon as the record says that something else is done. */
function once(host: VmHost, event: string, name: string, act: () => void): void {
  const stop = host.recorder.onLine((line) => {
    if (line.event !== event || line.name !== name || line.reason !== 'added') return;
    stop();
    setImmediate(act);
  });
}

async function isFree(file: string): Promise<boolean> {
  try {
    const storage = await openStorage(join(directory, file), { readOnly: false, log: () => {} });
    await storage.close();
    return true;
  } catch {
    return false;
  }
}

const FUNCTION = parseRequesterId('00:05.0');

test('the end of a host waits for a function that moves, and takes it with its VM', async () => {
  const made = await bench(vm('alpha', 'pool'), vm('beta'));
  const { host } = made.service;
  // It is out of the one and not yet in the other.
  const end = Promise.withResolvers<void>();
  host.recorder.onLine(({ reason }) => {
    if (reason === 'unbound') end.resolve(made[Symbol.asyncDispose]());
  });
  const moving = host.bind(FUNCTION, { vm: 'beta' });
  await end.promise;
  expect(await moving).toBe(parseRequesterId('0001:00:05.0'));
  expect([await isFree('pool'), existsSync(host.platform.run.path)]).toEqual([true, false]);
  const removed = host.recorder.lines.filter(({ reason }) => reason === 'removed');
  expect(removed.map(({ name }) => name)).toEqual(['alpha', 'beta', 'pool']);
});

test('a function that does not move yet as the host ends stays, and goes with its VM', async () => {
  const made = await bench(vm('alpha', 'pool'), vm('beta'));
  const { host } = made.service;
  const moving = host.bind(FUNCTION, { vm: 'beta' }).catch((error: unknown) => error);
  await made[Symbol.asyncDispose]();
  expect(String(await moving)).toMatch(/that is up, got one that ends/);
  expect([await isFree('pool'), existsSync(host.platform.run.path)]).toEqual([true, false]);
});

describe('a configuration that cannot be had says why', () => {
  test('where one of its VMs was removed meanwhile', async () => {
    const { service } = await bench(vm('alpha'));
    const { host } = service;
    const bad = { device: 'nvme', disks: ['no.img'], at: '00:05.0' };
    const two = config(host, { vms: [vm('beta'), vm('gamma', undefined, { functions: [bad] })] });
    once(host, 'vm', 'beta', () => void host.remove('beta'));
    await expect(host.addAll(two)).rejects.toThrow(/no\.img/);
    expect(host.vms.map(({ name }) => name)).toEqual(['alpha']);
  });

  test('where somebody’s VM has a function of one of its subsystems by then', async () => {
    const { service } = await bench(vm('alpha'));
    const { host } = service;
    const two = config(host, {
      subsystems: [subsystem('one'), subsystem('two', join(directory, 'no.img'))],
      vms: [vm('beta')],
    });
    let others: Promise<unknown> | undefined;
    once(host, 'subsystem', 'one', () => {
      others = host.addAll(config(host, { vms: [vm('gamma', 'one')] }));
    });
    await expect(host.addAll(two)).rejects.toThrow(/no\.img/);
    await others;
    expect(host.vms.map(({ name }) => name)).toEqual(['alpha', 'gamma']);
    expect(host.subsystems.all.map(({ name }) => name)).toEqual(['pool', 'one']);
  });
});

test('of two that bring a subsystem of one name at the same time one is refused', async () => {
  const { service } = await bench(vm('alpha'));
  const { host } = service;
  const namespaces = [{ file: disk('read'), 'read-only': true }];
  const one = { name: 'one', 'virtual-functions': 1, namespaces };
  const both = await Promise.allSettled(
    ['beta', 'gamma'].map((name) =>
      host.addAll(config(host, { subsystems: [one], vms: [vm(name)] })),
    ),
  );
  expect(both).toMatchObject([
    { status: 'fulfilled' },
    { reason: { message: expect.stringMatching(/expected a new name, got one/) } },
  ]);
  expect(host.vms.map(({ name }) => name)).toEqual(['alpha', 'beta']);
  expect(host.subsystems.all.map(({ name }) => name)).toEqual(['pool', 'one']);
});

test('a function that its VM boots from is not moved away', async () => {
  const { client } = await bench(vm('alpha', 'pool', { boot: '00:05.0' }), vm('beta'));
  const before = await client.ask('inspect', { vm: 'alpha' });
  await expect(client.ask('bind', { rid: '00:05.0', target: 'beta' })).rejects.toThrow(
    /0000:00:05\.0, which alpha boots from: remove that VM first/,
  );
  expect(await client.ask('inspect', { vm: 'alpha' })).toEqual(before);
});

test('a VM whose function went nowhere is planned without it', async () => {
  const { client, service } = await bench(vm('alpha', 'pool'), vm('beta'));
  const before = await client.ask('inspect', { vm: 'alpha' });
  const [socket = ''] = before.functions.map((one) => one.socket);
  expect(before.command).toContain(socket);
  // What is in the way of its server's socket.
  const inTheWay = service.host.platform.run.socket('0001-00-05-0');
  fileIn('/', inTheWay, 'no socket');
  await expect(client.ask('bind', { rid: '00:05.0', target: 'beta' })).rejects.toThrow(/no socket/);
  rmSync(inTheWay);
  expect((await client.ask('inspect', { vm: 'alpha' })).command).not.toContain(socket);
});

test('what a VM that has gone was refused is counted apart from what a VM of whatever name is', async () => {
  const functions = [{ device: 'edu', at: '00:04.0' }];
  const { client, service } = await bench(vm('alpha', undefined, { functions }));
  const { host } = service;
  const refusedTo = (name: string) => {
    const port = host.vm(name).machine.functions[0]?.port;
    expect(() => port?.readInto(0 as Iova, new Uint8Array(16))).toThrow();
  };
  refusedTo('alpha');
  await host.remove('alpha');
  for (const name of ['alpha', 'vm1']) {
    await host.addAll(config(host, { vms: [vm(name, undefined, { functions })] }));
    refusedTo(name);
  }
  const refused = (await client.ask('metrics', {})).match(/^sealbus_dma_refused_total\{.*/gm);
  expect(refused).toEqual(
    ['#1', 'alpha', 'vm1'].map(
      (name) => `sealbus_dma_refused_total{vm="${name}",reason="bus-master-disabled"} 1`,
    ),
  );
});

test('functions bound to a slot that was filled anew are in the record', async () => {
  const { client, service } = await bench(vm('alpha', 'pool'));
  const { host } = service;
  await client.ask('key-destroy', { slot: '1' });
  await client.ask('key-generate', { slot: 1, vm: 'alpha' });
  await client.ask('key-activate', { slot: 1 });
  const { length } = host.recorder.lines;
  await client.ask('bind', { rid: '00:05.0', target: '1' });
  expect(host.recorder.lines.slice(length)).toMatchObject([
    { event: 'binding', rid: '0000:00:05.0', slot: 1, generation: 2, reason: 'changed' },
  ]);
});

test('a function goes to no place that the machine has, or where a guest would not look', async () => {
  const { client } = await bench(vm('alpha', 'pool'), vm('beta'));
  const before = await client.ask('inspect', { vm: 'alpha' });
  for (const [at, why] of [
    ['00:00.0', /got 00:00.0, which the machine has/],
    ['00:1f.2', /got 00:1f.2, which the machine has/],
    ['00:06.1', /a function 0 beside 00:06.1, got none/],
  ] as const) {
    await expect(client.ask('bind', { rid: '00:05.0', target: 'beta', at })).rejects.toThrow(why);
  }
  await expect(
    client.ask('bind', { rid: '00:05.0', target: 'alpha', at: '00:05.1' }),
  ).rejects.toThrow(/a function 0 beside/);
  expect(await client.ask('inspect', { vm: 'alpha' })).toEqual(before);
});

test('where the function 0 of others is moved away, it has moved, and why they cannot boot is said', async () => {
  const others = ['00:05.0', '00:05.1'].map((at) => ({ device: 'edu', at }));
  const { client, log } = await bench(vm('alpha', undefined, { functions: others }), vm('beta'));
  const bind = (rid: string, target: string) => client.ask('bind', { rid, target });
  expect(await bind('00:05.0', 'beta')).toMatchObject({ rid: '0001:00:05.0' });
  const why = /a function 0 beside the others/;
  const said = () => log.filter((line) => line.startsWith('VM '));
  expect(said()).toEqual([expect.stringMatching(why)]);
  const { command, argv } = await client.ask('inspect', { vm: 'alpha' });
  expect([command, argv]).toEqual([expect.stringMatching(why), []]);
  expect(await bind('00:05.1', 'beta')).toMatchObject({ rid: '0001:00:05.1' });
  expect((await client.ask('inspect', { vm: 'alpha' })).command).toContain('qemu-system-');
  expect(said()).toHaveLength(1);
});
