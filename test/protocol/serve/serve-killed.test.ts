/**
 * SIGKILL of `sealbus serve` at one moment after the other. Each next start has the same configuration: its socket, disk,
 * slot and port may not be taken by what was left.
 */
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import { ControlClient } from '../../../src/serve/control/control-client.ts';
import { type Running, RunPlace, until } from '../cli/sealbus.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { GPA, MIB, vmsOf } from './service-bench.ts';

let place: RunPlace;
beforeEach(() => {
  place = new RunPlace();
});
afterEach(() => {
  place[Symbol.dispose]();
});

const inPlace = (name: string) => join(place.files, name);

/** A VM with a disk and a socket that no other may have. */
function vm(name: string, slot: number) {
  const disk = inPlace(`${name}.img`);
  writeFileSync(disk, new Uint8Array(MIB));
  const nvme = { device: 'nvme', at: '00:05.0', disks: [disk], socket: inPlace(`${name}.sock`) };
  return vmsOf({ name, slot, functions: [nvme] });
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { readonly port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function filesOfRuns(): string[] {
  return place.directories.flatMap((name) => {
    try {
      return readdirSync(join(place.path, 'sealbus', name));
    } catch {
      return []; // cleared away meanwhile
    }
  });
}

/** Moments of a start, in their order, each as it is first seen from outside. */
const starting = [
  ['its directory is there', () => place.directories.length > 0],
  ['its memory is mounted', () => place.mounts.length > 0],
  ['its VM has memory', () => place.mounts.some((path) => existsSync(join(path, 'vm1')))],
  ['its VM’s socket is there', () => existsSync(inPlace('alpha.sock'))],
  ['its control socket is there', () => filesOfRuns().includes('control.sock')],
] as const;

/** What is under way as it is killed. */
const working = [
  ['nothing is', () => undefined],
  [
    'a VM comes',
    (client) => client.ask('vm-add', { text: vm('beta', 5), file: 'more', directory: place.files }),
  ],
  ['a VM goes', (client) => client.ask('vm-remove', { vm: 'alpha' })],
  ['a key is made', (client) => client.ask('key-generate', { slot: 9, vm: 'alpha' })],
  ['a key rotates', (client) => client.ask('key-rotate', { slot: 'alpha' })],
  [
    'pages are made shared',
    (client) => {
      const range = { vm: 'alpha', address: GPA, bytes: 8 * MIB };
      return client.ask('pages-share', { ...range, keep: true });
    },
  ],
] as const satisfies [string, (client: ControlClient) => unknown][];

describe.skipIf(noSealedRam() !== undefined)('after SIGKILL', { timeout: 180_000 }, () => {
  /** What was left of the one before stops this one in nothing. */
  async function starts(): Promise<Running> {
    const running = place.start(words);
    await running.said(/"control":"[^"]+".*\n/);
    await until(() => place.mounts.length === 1, 10_000, 'the mounts of killed ones to go');
    expect(place.directories).toHaveLength(1);
    return running;
  }

  async function ends({ child, ended }: Running): Promise<void> {
    child.kill('SIGTERM');
    const { code, stderr } = await ended;
    expect(code, stderr).toBe(0);
    expect(place.left).toEqual([]);
  }

  let words: readonly string[];
  beforeEach(async () => {
    writeFileSync(inPlace('vms.json'), vm('alpha', 3));
    const flags = ['--json', '--accel', 'tcg', '--record', inPlace('record.ndjson')];
    const metrics = ['--metrics', `127.0.0.1:${await freePort()}`];
    words = ['serve', inPlace('vms.json'), ...flags, ...metrics];
  });

  test.each(starting)('as %s, the next start has all it needs', async (_moment, reached) => {
    const { child, ended } = place.start(words);
    await until(reached, 30_000, 'that moment');
    child.kill('SIGKILL');
    await ended;
    await ends(await starts());
  });

  test('of its memory controller too, the next start detaches the dead mount', async () => {
    const { child, ended } = await starts();
    process.kill(place.controller, 'SIGKILL');
    child.kill('SIGKILL');
    await ended;
    expect(place.mounts).toHaveLength(1);
    await ends(await starts());
  });

  test.each(working)('while %s, the next start has all it needs', async (_what, work) => {
    const { child, ended } = await starts();
    const [run = ''] = place.directories;
    const control = join(place.path, 'sealbus', run, 'control.sock');
    using client = new ControlClient(control);
    using other = new ControlClient(control);
    const { ram } = await client.ask('inspect', { vm: 'alpha' });
    const file = ram ?? '';
    await using vmm = await Vmm.connect(inPlace('alpha.sock'), { gpa: GPA, bytes: 64 * MIB, file });
    vmm.memory.write(GPA, new Uint8Array(16 * MIB).fill(7));
    const asked = Promise.resolve(work(client)).catch(() => {});
    // Asked on another connection, for one connection has one thing done at a time: the work has begun.
    await other.ask('ps', {});
    child.kill('SIGKILL');
    await asked;
    await vmm[Symbol.asyncDispose]();
    await ended;
    await ends(await starts());
  });
});
