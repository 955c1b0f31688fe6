import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, openSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import type { Iova } from '../../../src/pci/dma-port.ts';
import type { RecordLine } from '../../../src/serve/record/record-line.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { type Bench, fileIn, GPA, serviceBench, vmsOf } from './service-bench.ts';

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
});

async function bench(...args: Parameters<typeof serviceBench>): Promise<Bench> {
  const made = await serviceBench(...args);
  ends.push(made);
  return made;
}

const plain = (...names: string[]) => vmsOf(...names.map((name) => ({ name, memory: 'plain' })));
const plainly = { memory: 'plain' } as const;

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

describe('over the control socket', () => {
  test('VMs are listed and looked at', async () => {
    const { client } = await bench(plain('alpha', 'beta'), plainly);
    expect(await client.ask('ps', {})).toMatchObject([
      {
        name: 'alpha',
        vm: 1,
        slot: 1,
        state: 'active',
        memory: 'plain',
        functions: 1,
        attached: 0,
      },
      { name: 'beta', vm: 2, slot: 2, state: 'active', memory: 'plain', functions: 1, attached: 0 },
    ]);
    const beta = await client.ask('inspect', { vm: 'beta' });
    expect(beta.functions).toMatchObject([
      {
        rid: '0001:00:04.0',
        address: '0000:00:04.0',
        device: 'edu',
        attached: false,
        entry: { vm: 2, slot: 2 },
      },
    ]);
    expect(beta.command).toContain(beta.functions[0]?.socket);
    await expect(client.ask('inspect', { vm: 'gamma' })).rejects.toThrow(/alpha, beta.*"gamma"/);
  });

  test('VMs are added and removed beside each other; what cannot be is told by line, and leaves nothing', async () => {
    const { service, client, directory } = await bench(plain('alpha'), plainly);
    const add = (text: string) => client.ask('vm-add', { text, file: 'more.yaml', directory });
    expect(await add(plain('beta'))).toMatchObject([{ name: 'beta', vm: 2 }]);
    await expect(add(plain('gamma', 'alpha'))).rejects.toThrow(
      /more\.yaml:1: vms\[1\]: .*new name, got alpha/,
    );
    await expect(add(vmsOf({ name: 'delta', memory: 'plain', slot: 2 }))).rejects.toThrow(
      /more\.yaml:1: vms\[0\]\.slot: .*slot 2, which is taken/,
    );
    await expect(
      add(
        vmsOf({
          name: 'delta',
          memory: 'plain',
          functions: [{ device: 'nvme', at: '00:04.0', disks: ['no.img'] }],
        }),
      ),
    ).rejects.toThrow(/disks\[0\]: .*no\.img/);
    await expect(
      add(
        vmsOf({
          name: 'delta',
          memory: 'plain',
          functions: [{ device: 'no.ts#X', at: '00:04.0' }],
        }),
      ),
    ).rejects.toThrow(/device: .*no such file/);
    await expect(add(vmsOf({ name: 'delta', memory: 'sealed' }))).rejects.toThrow(/plain/);
    expect((await client.ask('ps', {})).map(({ name }) => name)).toEqual(['alpha', 'beta']);
    expect(service.host.keys.list()).toHaveLength(2);

    await client.ask('vm-remove', { vm: 'alpha' });
    expect((await client.ask('ps', {})).map(({ name }) => name)).toEqual(['beta']);
    await expect(client.ask('vm-remove', { vm: 'alpha' })).rejects.toThrow(/name of a VM \(beta\)/);
  });

  test('a socket path that somebody listens at is refused by its line; one of a dead run is taken', async () => {
    const { client, directory } = await bench(plain('alpha'), plainly);
    const socket = (path: string) =>
      vmsOf({
        name: 'beta',
        memory: 'plain',
        functions: [{ device: 'edu', at: '00:04.0', socket: path }],
      });
    const add = (text: string) => client.ask('vm-add', { text, file: 'v', directory });
    const [alpha] = (await client.ask('inspect', { vm: 'alpha' })).functions;
    await expect(add(socket(alpha?.socket ?? ''))).rejects.toThrow(
      /v:1: .*socket: another process listens/,
    );
    await expect(add(socket(fileIn(directory, 'file', 'no socket')))).rejects.toThrow(/no socket/);
    await add(socket('own.sock'));
    expect(statSync(join(directory, 'own.sock')).mode & 0o777).toBe(0o600);
  });

  test('a function is bound to another slot of its VM, and to no other’s', async () => {
    const { service, client, vmm } = await bench(plain('alpha', 'beta'), plainly);
    await vmm('alpha');
    const port = service.host.vm('alpha').machine.functions[0]?.port;
    const read = () => port?.readInto(GPA as Iova, new Uint8Array(16));
    read();
    await client.ask('key-generate', { slot: 77, vm: 'alpha' });
    await client.ask('key-activate', { slot: 77 });
    expect(await client.ask('bind', { rid: '00:04.0', target: '77' })).toMatchObject({
      entry: { slot: 77 },
    });
    read();
    await client.ask('key-revoke', { slot: '77' });
    expect(read).toThrow(/slot-not-active/);
    expect(await client.ask('bind', { rid: '00:04.0', target: 'alpha' })).toMatchObject({
      entry: { slot: 1 },
    });
    read();
    await expect(client.ask('bind', { rid: '00:04.0', target: '2' })).rejects.toThrow(/VM 2's/);
    await expect(client.ask('bind', { rid: '00:09.0', target: '1' })).rejects.toThrow(/none's/);
    expect(await client.ask('inspect', { vm: 'alpha' })).toMatchObject({ refused: 1, attached: 1 });
  });

  test('a function is moved to another VM, and its disks outlive the first one', async () => {
    const config = JSON.stringify({
      vms: [
        {
          name: 'alpha',
          memory: 'plain',
          functions: [{ device: 'nvme', at: '00:05.0', disks: ['/dev/null.img'] }],
        },
        { name: 'beta', memory: 'plain' },
      ],
    });
    const { mkdtempSync, rmSync } = await import('node:fs');
    const directory = mkdtempSync('/tmp/sealbus-disk-');
    const disk = fileIn(directory, 'disk.img', new Uint8Array(4 * 2 ** 20));
    const { client, service } = await bench(config.replace('/dev/null.img', disk), plainly);
    const moved = await client.ask('bind', { rid: '00:05.0', target: 'beta' });
    expect(moved).toMatchObject({ rid: '0001:00:05.0', device: 'nvme', entry: { vm: 2, slot: 2 } });
    await client.ask('vm-remove', { vm: 'alpha' });
    // Still locked by its function, which is beta's now.
    const { openStorage } = await import('../../../src/storage/open-storage.ts');
    const open = () => openStorage(disk, { readOnly: false, log: () => {} });
    await expect(open()).rejects.toThrow(/disk\.img/);
    const { command } = await client.ask('inspect', { vm: 'beta' });
    expect(command).toContain(moved.socket);
    await client.ask('vm-remove', { vm: 'beta' });
    await (await open()).close();
    expect(service.host.vms).toEqual([]);
    rmSync(directory, { recursive: true });
  });

  test('what is no request is refused, and the next one is done', async () => {
    const { service } = await bench(plain('alpha'), plainly);
    const raw = connect(service.controlPath);
    const lines = readLines(raw);
    raw.write('nonsense\n{"id":1}\n{"id":2,"op":"ps","more":1}\n{"id":3,"op":"ps"}\n');
    expect(await lines(4)).toMatchObject(
      [
        { id: null, error: /no JSON/ },
        { id: 1, error: /op/ },
        { id: 2, error: /more/ },
        { id: 3, value: [{ name: 'alpha' }] },
      ].map(({ id, error, value }) => ({
        id,
        ...(error ? { error: expect.stringMatching(error) } : { value }),
      })),
    );
    raw.destroy();
  });

  test('a line that never ends, and requests without end, are bounded; others are served meanwhile', async () => {
    const { service, client, connect: another } = await bench(plain('alpha'), plainly);
    const endless = connect(service.controlPath);
    endless.on('error', () => {});
    const ended = new Promise((resolve) => endless.once('close', resolve));
    const said: Buffer[] = [];
    endless.on('data', (chunk) => said.push(chunk));
    const piece = 'x'.repeat(64 * 1024);
    for (let at = 0; at < 32; at++) endless.write(piece);
    await ended;
    expect(Buffer.concat(said).toString()).toMatch(/at most 262144 bytes/);

    // 2,000 requests at once: at 100 a second they would take 20 s.
    const flood = connect(service.controlPath);
    flood.on('error', () => {});
    let answers = 0;
    flood.on('data', (chunk) => {
      answers += chunk.toString().split('\n').length - 1;
    });
    flood.write(Array.from({ length: 2000 }, (_, id) => `{"id":${id},"op":"ps"}\n`).join(''));
    for (let round = 0; round < 20; round++) {
      expect(await client.ask('ps', {})).toHaveLength(1);
      expect(await another().ask('ps', {})).toHaveLength(1);
    }
    expect(answers).toBeGreaterThan(0);
    expect(answers).toBeLessThan(2000);
    flood.destroy();
  });

  test('there is room for so many clients; one more is told, and one that goes makes room', async () => {
    const { service, client } = await bench(plain('alpha'), plainly);
    await client.ask('ps', {});
    const others: ReturnType<typeof connect>[] = [];
    for (let one = 0; one < 31; one++) {
      const other = connect(service.controlPath);
      others.push(other);
      other.write('{"id":1,"op":"ps"}\n');
      expect(await readLines(other)(1)).toMatchObject([{ id: 1 }]);
    }
    const onemore = connect(service.controlPath);
    expect(await readLines(onemore)(1)).toMatchObject([
      { id: null, error: expect.stringMatching(/32 clients/) },
    ]);
    others[0]?.destroy();
    await until(() => service.host.vms.length === 1);
    await sleep(50);
    const again = connect(service.controlPath);
    again.write('{"id":1,"op":"ps"}\n');
    expect(await readLines(again)(1)).toMatchObject([{ id: 1 }]);
    for (const other of [...others, onemore, again]) other.destroy();
  });

  test('a client that disconnects in the middle: what it asked for is done, and nothing is left of it', async () => {
    const { service, client, directory } = await bench(plain('alpha'), plainly);
    await client.ask('ps', {});
    const before = openDescriptors();
    for (let round = 0; round < 5; round++) {
      const gone = connect(service.controlPath);
      const text = plain(`vm${round}`);
      gone.write(
        `${JSON.stringify({ id: 1, op: 'vm-add', text, file: 'v', directory })}\n{"id":2,"op":`,
      );
      await new Promise<void>((resolve) => gone.end(() => resolve()));
      gone.destroy();
    }
    await until(() => service.host.vms.length === 6);
    for (let round = 0; round < 5; round++) await client.ask('vm-remove', { vm: `vm${round}` });
    await until(() => openDescriptors() <= before);
  });

  test('it is for its owner alone', async () => {
    const { service } = await bench(plain('alpha'), plainly);
    const { mode, uid } = statSync(service.controlPath);
    expect([mode & 0o777, uid]).toEqual([0o600, process.getuid?.()]);
    expect(statSync(join(service.controlPath, '..')).mode & 0o777).toBe(0o700);
  });
});

describe('the record', () => {
  test('every binding, key event and refused DMA is one line, in the file, on the socket and in the counters', async () => {
    const directory = (await import('node:fs')).mkdtempSync('/tmp/sealbus-record-');
    const record = join(directory, 'record.ndjson');
    const made = await bench(plain('alpha', 'beta'), { ...plainly, record });
    const { service, client, vmm } = made;
    const followed: unknown[] = [];
    await client.ask('record', { last: 0, follow: true }, { line: (line) => followed.push(line) });
    await vmm('alpha');
    const { port, rid } = service.host.vm('alpha').machine.functions[0] ?? {};
    const entry = rid === undefined ? undefined : service.host.platform.iommu.table.get(rid);
    if (entry === undefined || rid === undefined) throw new Error('expected an entry');
    service.host.platform.iommu.table.set(rid, {
      ...entry,
      slotFrom: 'device-table',
      slot: service.host.vm('beta').machine.slot,
    });
    expect(() => port?.readInto(GPA as Iova, new Uint8Array(64))).toThrow();
    await client.ask('key-revoke', { slot: 'beta' });
    await until(() => followed.length >= 3);
    const expected = [
      { event: 'binding', rid: '0000:00:04.0', vm: 1, slot: 2, generation: 1, reason: 'changed' },
      {
        event: 'refused',
        rid: '0000:00:04.0',
        vm: 1,
        slot: 2,
        generation: 1,
        reason: 'slot-of-another-vm',
        direction: 'read',
        length: 64,
        iova: '0x100000',
      },
      { event: 'key', rid: null, vm: 2, slot: 2, generation: 1, reason: 'revoked' },
    ];
    expect(followed).toMatchObject(expected);
    const metrics = await client.ask('metrics', {});
    expect(metrics).toContain(
      'sealbus_dma_refused_total{vm="alpha",reason="slot-of-another-vm"} 1\n',
    );
    expect(metrics).toContain('sealbus_key_slots{state="revoked"} 1\n');

    await made[Symbol.asyncDispose]();
    const lines = readFileSync(record, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as RecordLine);
    expect(lines.slice(0, 4).map(({ event, reason }) => `${event} ${reason}`)).toEqual([
      'key loaded',
      'key activated',
      'binding bound',
      'vm added',
    ]);
    const at = lines.findIndex(({ reason }) => reason === 'changed');
    expect(lines.slice(at, at + 3)).toMatchObject(expected);
    expect(lines.filter(({ event }) => event === 'refused')).toHaveLength(1);
    expect(lines.slice(-1)).toMatchObject([
      { event: 'vm', vm: 2, name: 'beta', reason: 'removed' },
    ]);
    for (const line of lines) {
      expect(Object.keys(line).slice(0, 7)).toEqual([
        'time',
        'event',
        'rid',
        'vm',
        'slot',
        'generation',
        'reason',
      ]);
    }
    expect(statSync(record).mode & 0o777).toBe(0o600);
    (await import('node:fs')).rmSync(directory, { recursive: true });
  });

  test('a Prometheus server reads counters on loopback, and nothing else', async () => {
    const { service } = await bench(plain('alpha'), {
      ...plainly,
      metrics: { host: '127.0.0.1', port: 0 },
    });
    const at = `http://127.0.0.1:${service.metricsPort}`;
    const metrics = await fetch(`${at}/metrics`);
    expect(metrics.headers.get('content-type')).toContain('version=0.0.4');
    const text = await metrics.text();
    expect(text).toContain('sealbus_vms 1\n');
    expect(text).toMatch(/^# HELP sealbus_control_refused_total Clients .* turned away/m);
    expect((await fetch(`${at}/`)).status).toBe(404);
    expect((await fetch(`${at}/metrics`, { method: 'POST' })).status).toBe(404);
  });
});

describe.skipIf(noSealedRam() !== undefined)('with sealed memory', () => {
  const sealed = (...names: string[]) => vmsOf(...names.map((name) => ({ name })));

  test('a key comes out of a descriptor of the client’s, is used, and is in no answer, record or log', async () => {
    const { client, directory, service, log } = await bench(sealed('alpha'));
    await client.ask('ps', {});
    const before = openDescriptors();
    const key = randomBytes(64);
    const fd = openSync(fileIn(directory, 'key', key), 'r');
    const answer = await client.ask('key-load', { slot: 5, vm: 'alpha' }, { descriptor: fd });
    expect(answer).toMatchObject({ slot: 5, state: 'loaded', vm: 1, generation: 1, keyBits: 256 });
    closeSync(fd);
    await client.ask('key-activate', { slot: 5 });
    const short = openSync(fileIn(directory, 'short', key.subarray(0, 10)), 'r');
    await expect(client.ask('key-load', { slot: 6 }, { descriptor: short })).rejects.toThrow(/64/);
    closeSync(short);
    await expect(client.ask('key-load', { slot: 6 })).rejects.toThrow(
      /descriptor beside the request/,
    );
    expect(openDescriptors()).toBe(before);
    const all = JSON.stringify([
      answer,
      await client.ask('keys', {}),
      service.host.recorder.lines,
      log,
    ]);
    expect(all).not.toContain(key.toString('hex').slice(0, 16));
    expect(all).not.toContain(key.toString('base64').slice(0, 16));
  });

  test('a VM whose key the client gives is added; a descriptor of the host’s own is not to be named', async () => {
    const { client, directory } = await bench(sealed('alpha'));
    const text = vmsOf({ name: 'beta', key: { descriptor: 7 } });
    const fields = { text, file: 'v', directory };
    await expect(client.ask('vm-add', fields)).rejects.toThrow(
      /v:1: vms\[0\]\.key: .*came with the request/,
    );
    const fd = openSync(fileIn(directory, 'key', randomBytes(64)), 'r');
    expect(
      await client.ask('vm-add', { ...fields, descriptor: 7 }, { descriptor: fd }),
    ).toMatchObject([{ name: 'beta', state: 'active' }]);
    closeSync(fd);
  });

  test('a rotation runs, pauses, goes on and is done while the VM’s DMA goes on; each step is in the record', async () => {
    const { client, service, vmm } = await bench(vmsOf({ name: 'alpha', size: '128M' }));
    const { memory } = await vmm('alpha');
    const content = Uint8Array.from({ length: 8 * 2 ** 20 }, (_, at) => at % 253);
    memory.write(GPA, content);
    await service.host.vm('alpha').machine.sealed?.flush();
    const port = service.host.vm('alpha').machine.functions[0]?.port;
    await client.ask('key-rotate', { slot: 'alpha' });
    const paused = await client.ask('key-pause', { slot: 'alpha' }).catch(() => undefined);
    const into = new Uint8Array(65_536);
    for (let at = 0; at < content.length; at += into.length) {
      port?.readInto((GPA + at) as Iova, into);
      expect(Buffer.compare(into, content.subarray(at, at + into.length))).toBe(0);
    }
    if (paused !== undefined) await client.ask('key-resume', { slot: 'alpha' });
    const slot = service.host.slotOf('alpha');
    await service.host.keys.rotated(slot);
    expect(await client.ask('keys', {})).toMatchObject([
      { slot: 1, state: 'active', generation: 2 },
    ]);
    const reasons = service.host.recorder.lines
      .filter(({ event }) => event === 'key')
      .map(({ reason }) => reason);
    expect(reasons.filter((reason) => reason.startsWith('rotation-'))).toEqual([
      'rotation-begun',
      ...(paused === undefined ? [] : ['rotation-paused', 'rotation-resumed']),
      'rotation-done',
    ]);
  });

  test('a VMM that disconnects in the middle of a rotation leaves its VM and the others as they are', async () => {
    const { client, service, vmm } = await bench(sealed('alpha', 'beta'));
    const one = await vmm('alpha');
    one.memory.write(GPA, new Uint8Array(4 * 2 ** 20).fill(5));
    const beta = await vmm('beta');
    beta.memory.write(GPA, new Uint8Array(4096).fill(9));
    await client.ask('key-rotate', { slot: 'alpha' });
    await one[Symbol.asyncDispose]();
    await service.host.keys.rotated(service.host.slotOf('alpha'));
    const port = service.host.vm('beta').machine.functions[0]?.port;
    const into = new Uint8Array(4096);
    port?.readInto(GPA as Iova, into);
    expect(new Set(into)).toEqual(new Set([9]));
    const again = await vmm('alpha');
    expect(new Set(again.memory.read(GPA, 4096))).toEqual(new Set([5]));
  });

  test('a VM of plain memory beside a sealed one', async () => {
    const { client, vmm, log } = await bench(
      vmsOf({ name: 'alpha' }, { name: 'beta', memory: 'plain' }),
    );
    expect(await client.ask('ps', {})).toMatchObject([{ memory: 'sealed' }, { memory: 'plain' }]);
    await vmm('beta');
    expect(await client.ask('inspect', { vm: 'beta' })).toMatchObject({ ram: null, dram: null });
    const { attached } = await client.ask('vm-remove', { vm: 'beta' });
    expect(attached).toBe(1);
    expect(log).toContain('VM beta ends: a VMM that is attached loses a function, and its memory');
    const { ram, dram } = await client.ask('inspect', { vm: 'alpha' });
    for (const path of [ram, dram]) expect(existsSync(path ?? '')).toBe(true);
  });
});

function readLines(socket: ReturnType<typeof connect>): (count: number) => Promise<unknown[]> {
  let text = '';
  socket.on('error', () => {});
  socket.on('data', (chunk) => {
    text += chunk.toString();
  });
  return async (count) => {
    await until(() => text.split('\n').length > count);
    return text
      .split('\n')
      .slice(0, count)
      .map((line) => JSON.parse(line));
  };
}

async function until(holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    if (tries > 1000) throw new Error('expected it to become so within 10 s');
    await sleep(10);
  }
}
