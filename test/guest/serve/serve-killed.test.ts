/**
 * SIGKILL of each process around a guest that `sealbus serve` serves, while the guest works and its key rotates: the
 * one that serves, its memory controller, QEMU.
 */
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import { ControlClient } from '../../../src/serve/control/control-client.ts';
import { RunPlace, until } from '../../protocol/cli/sealbus.ts';
import { noSealedRam } from '../../protocol/memory/sealed-bench.ts';
import { eduReads, eduWrites } from '../../protocol/serve/edu-transfer.ts';
import { GuestConsole } from './guest-console.ts';

const MIB = 2 ** 20;
const SAVED = 'written and flushed';
const SAVED_AT = 512;
/** Of the disk, from its second MiB on; in the background, for what hangs on a device that is gone is not to be ended. */
const WRITES_FOR_EVER =
  'while :; do head -c 1000000 /dev/urandom > /tmp/data; ' +
  "dd if=/tmp/data of=/dev/nvme0n1 bs=64k seek=16 conv=notrunc,fsync 2>/dev/null; echo ro''und; done &";
/** Pages that it has not touched before. */
const TAKES_MORE_MEMORY = 'head -c 150000000 /dev/zero > /tmp/pages';

let place: RunPlace;
let directory: string;
let end: AsyncDisposableStack;
beforeEach(() => {
  place = new RunPlace();
  directory = mkdtempSync(join(tmpdir(), 'sealbus-serve-'));
  end = new AsyncDisposableStack();
});
afterEach(async () => {
  await end.disposeAsync();
  place[Symbol.dispose]();
  rmSync(directory, { recursive: true, force: true });
});

const disk = () => join(directory, 'disk.img');
const record = () => join(directory, 'record.ndjson');

/** alpha, which QEMUs boot, with all that a start may find taken; and beta beside it. */
async function configured(iommu: 'virtio' | 'identity'): Promise<readonly string[]> {
  writeFileSync(disk(), new Uint8Array(4 * MIB));
  const edu = { device: 'edu', at: '00:04.0' };
  const nvme = { device: 'nvme', at: '00:05.0', disks: [disk()], socket: 'nvme.sock' };
  const vms = [
    { name: 'alpha', size: '256M', iommu, slot: 7, functions: [edu, nvme] },
    { name: 'beta', size: '64M', functions: [edu] },
  ];
  const config = join(directory, 'vms.json');
  writeFileSync(config, JSON.stringify({ vms }));
  const metrics = `127.0.0.1:${await freePort()}`;
  return ['serve', config, '--json', '--accel', 'tcg', '--record', record(), '--metrics', metrics];
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { readonly port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/** A start that is to come up, with a client at its control socket. */
async function serve(words: readonly string[]) {
  const running = place.start(words, { timeoutMs: 280_000 });
  await running.said(/"control":"[^"]+".*\n/);
  // What was left of others went as it began.
  expect(place.directories).toHaveLength(1);
  const [run = ''] = place.directories;
  const client = end.use(new ControlClient(join(place.path, 'sealbus', run, 'control.sock')));
  const metrics = await (await fetch(`http://${words.at(-1)}/metrics`)).text();
  expect(metrics).toContain('sealbus_vms 2\n');
  return { running, client };
}

/** Boots alpha by what is printed for it; our mark is in its environment. */
async function boot(client: ControlClient): Promise<GuestConsole> {
  const { command } = await client.ask('inspect', { vm: 'alpha' });
  const guest = end.use(new GuestConsole(command, { XDG_RUNTIME_DIR: place.path }));
  await guest.booted();
  await guest.run('until [ -b /dev/nvme0n1 ]; do sleep 0.1; done');
  return guest;
}

async function works(guest: GuestConsole): Promise<void> {
  const carry = 'printf carried | dd of=/dev/edu0 conv=notrunc 2>/dev/null';
  expect(await guest.run(`${carry}; head -c 7 /dev/edu0; echo`)).toBe('carried\n');
}

async function saves(guest: GuestConsole): Promise<void> {
  const to = `dd of=/dev/nvme0n1 bs=${SAVED_AT} seek=1 conv=notrunc,fsync`;
  await guest.run(`printf '${SAVED}' | ${to} 2>/dev/null`);
}

function onDisk(): string {
  return readFileSync(disk()).toString('latin1', SAVED_AT, SAVED_AT + SAVED.length);
}

async function read(guest: GuestConsole): Promise<string> {
  const from = `dd if=/dev/nvme0n1 bs=${SAVED_AT} skip=1 count=1 2>/dev/null`;
  return (await guest.run(`${from} | head -c ${SAVED.length}; echo`)).trim();
}

function rotation(client: ControlClient) {
  return client.ask('keys', {}).then((keys) => keys.find(({ slot }) => slot === 7)?.rotation);
}

async function rotated(client: ControlClient): Promise<void> {
  for (let tries = 0; (await rotation(client))?.state !== 'done'; tries++) {
    if (tries > 1000) throw new Error('expected the rotation to end');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe.skipIf(noSealedRam() !== undefined)('SIGKILL', () => {
  test.each([
    ['while the guest works', 'identity', false],
    ['while the guest works behind its IOMMU and its key rotates', 'virtio', true],
  ] as const)(
    'of who serves, %s: the next start has all it needs',
    async (_moment, iommu, rotates) => {
      const words = await configured(iommu);
      const first = await serve(words);
      const guest = await boot(first.client);
      await saves(guest);
      guest.type(WRITES_FOR_EVER);
      await guest.said(/round/);
      const { controller } = place;
      if (rotates) {
        const { rotation } = await first.client.ask('key-rotate', { slot: 'alpha' });
        expect(rotation).toMatchObject({ state: 'running' });
      }
      first.running.child.kill('SIGKILL');
      await once(first.running.child, 'exit');

      // At once: its memory controller and its QEMU may still be there.
      const second = await serve(words);
      const controllers = () =>
        place.processes.filter(({ name }) => name.includes('sealbus-memory'));
      await until(() => controllers().length === 1, 10_000, 'the first memory controller to end');
      expect(controllers()[0]?.pid).not.toBe(controller);
      expect(place.mounts).toHaveLength(1);
      expect(onDisk()).toBe(SAVED);

      if (iommu === 'identity') {
        guest.type(TAKES_MORE_MEMORY);
        await until(() => guest.ended, 60_000, 'the QEMU without memory to die');
      } else {
        // A driver of a virtio-iommu waits for its device with interrupts off: its guest may miss no page any more,
        // and is ended by hand.
        await guest[Symbol.asyncDispose]();
      }
      const next = await boot(second.client);
      expect(await read(next)).toBe(SAVED);
      await works(next);
      await next[Symbol.asyncDispose]();
      second.running.child.kill('SIGTERM');
      expect(await second.running.ended).toMatchObject({ code: 0 });
      expect(place.left).toEqual([]);
      // Whole lines alone, of both.
      const lines = readFileSync(record(), 'utf8')
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line));
      expect(lines.filter(({ event, reason }) => `${event} ${reason}` === 'vm added')).toHaveLength(
        4,
      );
    },
  );

  test('of the memory controller: who serves says so and ends with 1; QEMU dies, and nothing is left', async () => {
    const words = await configured('identity');
    const { running, client } = await serve(words);
    const guest = await boot(client);
    await saves(guest);
    guest.type(WRITES_FOR_EVER);
    await guest.said(/round/);
    process.kill(place.controller, 'SIGKILL');
    const { code, stderr } = await running.ended;
    expect(code).toBe(1);
    expect(stderr).toMatch(/memory controller.*its end \(SIGKILL\)/);
    guest.type(TAKES_MORE_MEMORY);
    await until(() => guest.ended, 60_000, 'the QEMU without memory to die');
    expect(place.left).toEqual([]);
    expect(onDisk()).toBe(SAVED);
    const next = await serve(words);
    next.running.child.kill('SIGTERM');
    expect(await next.running.ended).toMatchObject({ code: 0 });
    expect(place.left).toEqual([]);
  });

  test('of QEMU in the middle of a rotation, which runs or is paused: it comes to its end, others go on, and the same command boots the VM anew', async () => {
    const { running, client } = await serve(await configured('virtio'));
    const { functions, ram } = await client.ask('inspect', { vm: 'beta' });
    const beta = end.use(
      await Vmm.connect(functions[0]?.socket ?? '', {
        ...{ gpa: 0, bytes: 64 * MIB, ...(ram === null ? {} : { file: ram }) },
      }),
    );
    const beside = beta.memory.allocate(Buffer.from('beside it'));
    const back = beta.memory.allocate(beside.length);
    const carries = async () => {
      beta.memory.write(back.gpa, new Uint8Array(back.length));
      await eduReads(beta, beside.gpa, beside.length);
      await eduWrites(beta, back.gpa, back.length);
      expect(Buffer.from(beta.memory.read(back.gpa, back.length)).toString()).toBe('beside it');
    };
    const { command } = await client.ask('inspect', { vm: 'alpha' });
    for (const pauses of [false, true]) {
      const guest = await boot(client);
      await saves(guest);
      guest.type(WRITES_FOR_EVER);
      await guest.said(/round/);
      await client.ask('key-rotate', { slot: 'alpha' });
      if (pauses) await client.ask('key-pause', { slot: 'alpha' });
      const at = await rotation(client);
      expect(at?.state).toBe(pauses ? 'paused' : 'running');
      expect(at?.passedPages).toBeLessThan(at?.pages ?? 0);
      process.kill(guest.pid, 'SIGKILL');
      await carries();
      await until(() => guest.ended, 10_000, 'QEMU to end');
      for (let tries = 0; (await client.ask('inspect', { vm: 'alpha' })).attached > 0; tries++) {
        expect(tries).toBeLessThan(1000);
      }
      if (pauses) {
        expect(await rotation(client)).toMatchObject({ state: 'paused' });
        await client.ask('key-resume', { slot: 'alpha' });
      }
      await rotated(client);
      await carries();
      const alpha = await client.ask('inspect', { vm: 'alpha' });
      expect(alpha).toMatchObject({
        refused: 0,
        state: 'active',
        generation: pauses ? 3 : 2,
        command,
      });
      expect(onDisk()).toBe(SAVED);
    }
    const next = await boot(client);
    expect(await read(next)).toBe(SAVED);
    await works(next);
    await next[Symbol.asyncDispose]();
    await beta[Symbol.asyncDispose]();
    running.child.kill('SIGTERM');
    expect(await running.ended).toMatchObject({ code: 0 });
    expect(place.left).toEqual([]);
  });
});
