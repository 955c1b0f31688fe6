import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, closeSync, openSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import { ControlClient } from '../../../src/serve/control/control-client.ts';
import { RunPlace, repository, until } from '../cli/sealbus.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { eduReads } from './edu-transfer.ts';
import { vmsOf } from './service-bench.ts';

let place: RunPlace;
beforeEach(() => {
  place = new RunPlace();
});
afterEach(() => {
  place[Symbol.dispose]();
});

function configured(text: string): string {
  const path = join(place.files, 'vms.yaml');
  writeFileSync(path, text);
  return path;
}

async function serving(config: string, ...more: string[]) {
  const running = place.start(['serve', config, '--json', '--accel', 'tcg', ...more]);
  await running.said(/"control":"[^"]+".*\n/);
  return running;
}

/** Where the running one listens. */
function controlSocket(): string {
  const [name] = place.directories;
  return join(place.path, 'sealbus', name ?? '', 'control.sock');
}

const plain = vmsOf({ name: 'alpha', memory: 'plain' });

test('what is wrong with a configuration is told a line each, and nothing is started', async () => {
  const config = configured('vms:\n  - name: a\n    size: 3\n    slots: 1\n');
  const { code, stdout, stderr } = await place.run(['serve', config]);
  expect([code, stdout.toString()]).toEqual([1, '']);
  expect(stderr).toContain(`${config}:3: vms[0].size: expected a size`);
  expect(stderr).toContain(`${config}:4: vms[0].slots: expected one of`);
  expect(place.left).toEqual([]);
});

test('SIGTERM ends it in order, with 0, and commands say that none serves', async () => {
  const { child, ended } = await serving(configured(plain));
  const ps = await place.run(['ps', '--json']);
  expect(JSON.parse(ps.stdout.toString())).toMatchObject([{ name: 'alpha' }]);
  child.kill('SIGTERM');
  const { code, stdout } = await ended;
  expect(code).toBe(0);
  expect(JSON.parse(stdout.toString())).toMatchObject({
    vms: [
      {
        name: 'alpha',
        vm: 1,
        slot: 1,
        memory: 'plain',
        argv: expect.arrayContaining(['-machine']),
      },
    ],
  });
  expect(place.left).toEqual([]);
  const none = await place.run(['ps']);
  expect(none.code).toBe(1);
  expect(none.stderr).toContain('got none: start one');
});

test('two at a time are told apart by their sockets', async () => {
  const one = await serving(configured(plain));
  const two = await serving(configured(plain));
  const { code, stderr } = await place.run(['ps']);
  expect(code).toBe(1);
  const sockets = stderr.match(/\S+control\.sock/g) ?? [];
  expect(sockets).toHaveLength(2);
  const chosen = await place.run(['ps', '--socket', sockets[1] ?? '']);
  expect(chosen.stdout.toString()).toMatch(/^NAME .*\nalpha /);
  for (const { child } of [one, two]) child.kill('SIGTERM');
  await Promise.all([one.ended, two.ended]);
});

describe.skipIf(noSealedRam() !== undefined)('with sealed memory', () => {
  const sealed = (extra: object = {}) => vmsOf({ name: 'alpha', ...extra });

  test('keys come out of descriptors, at the start and later; from no argument and no environment', async () => {
    const key = join(place.files, 'key');
    writeFileSync(
      key,
      Uint8Array.from({ length: 64 }, (_, at) => at * 3),
    );
    const config = configured(sealed({ key: { descriptor: 7 } }));
    const shell = (command: string) => place.spawn(['sh', '-c', command]);
    const main = `'${process.execPath}' '${repository}/src/cli/main.ts'`;
    const running = shell(`exec ${main} serve '${config}' --json --accel tcg 7<'${key}'`);
    await running.said(/"control":"[^"]+".*\n/);
    const load = await shell(`exec ${main} key load 9 --vm alpha --json < '${key}'`).ended;
    expect(JSON.parse(load.stdout.toString())).toMatchObject({ slot: 9, state: 'loaded', vm: 1 });
    const rotate = await shell(
      `exec ${main} key rotate alpha --fd 5 --duty 100 --wait --json 5<'${key}'`,
    ).ended;
    expect(JSON.parse(rotate.stdout.toString())).toMatchObject({
      slot: 1,
      state: 'active',
      generation: 2,
    });
    const missing = await place.run(['serve', config]);
    expect(missing.code).toBe(1);
    expect(missing.stderr).toMatch(
      /vms\.yaml:1: vms\[0\]\.key: expected descriptor 7 from whoever/,
    );
    running.child.kill('SIGTERM');
    expect((await running.ended).code).toBe(0);
  });

  test('SIGTERM does not wait for a key that does not come', async () => {
    const { child, ended } = await serving(configured(sealed()));
    const pipe = join(place.files, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const descriptor = openSync(pipe, 'r+');
    try {
      const client = new ControlClient(controlSocket());
      const loading = client.ask('key-load', { slot: 9 }, { descriptor }).catch(String);
      // Answered by then: what it was asked for comes first.
      using other = new ControlClient(controlSocket());
      expect(await other.ask('keys', {})).toMatchObject([{ slot: 1 }]);
      child.kill('SIGTERM');
      await until(() => child.exitCode !== null, 20_000, 'it to end');
      expect((await ended).code).toBe(0);
      expect(await loading).toMatch(/ended the connection/);
    } finally {
      closeSync(descriptor);
    }
    expect(place.left).toEqual([]);
  });
});

// Root alone can be two users. In a user namespace of its own a process is another user to itself, and still
// this one to SO_PEERCRED and to permissions of files: no stranger.
describe.skipIf(process.getuid?.() !== 0)('another user', () => {
  /** A process of user 65534 that connects, and prints what it hears. */
  function ask(path: string): string {
    const program = `
      const socket = require('node:net').connect(process.argv[1]);
      socket.on('data', (chunk) => process.stdout.write(chunk));
      socket.on('error', (error) => process.stdout.write(error.code));`;
    const { stdout } = spawnSync(process.execPath, ['-e', program, path], {
      ...{ uid: 65534, gid: 65534, encoding: 'utf8', timeout: 30_000, cwd: '/' },
    });
    return stdout;
  }

  test('cannot reach the control socket; where somebody has opened the way, is refused by who it is', async () => {
    const { child, ended } = await serving(configured(plain));
    const path = controlSocket();
    expect(ask(path)).toBe('EACCES');
    chmodSync(path, 0o666);
    for (let at = dirname(path); at.startsWith(place.path); at = dirname(at)) chmodSync(at, 0o755);
    expect(JSON.parse(ask(path))).toEqual({
      id: null,
      error: 'expected user 0, who started this host, got user 65534',
    });
    chmodSync(dirname(path), 0o700);
    expect(
      JSON.parse((await place.run(['ps', '--json', '--socket', path])).stdout.toString()),
    ).toHaveLength(1);
    child.kill('SIGTERM');
    expect((await ended).stderr).toContain('of user 65534');
  });
});

test('a second start beside the first, which has its socket, its disk and its port, is refused by line; the first runs on', async () => {
  const disk = join(place.files, 'disk.img');
  writeFileSync(disk, new Uint8Array(2 ** 20));
  const socket = { at: '00:04.0', socket: join(place.files, 'edu.sock') };
  const of = (...functions: object[]) => vmsOf({ name: 'alpha', memory: 'plain', functions });
  const edu = { device: 'edu', ...socket };
  const nvme = { device: 'nvme', at: '00:05.0', disks: [disk] };
  const first = await serving(configured(of(edu, nvme)), '--metrics', '127.0.0.1:0');
  const { metricsPort } = JSON.parse(first.stdout());
  const left = place.left;
  for (const [config, words, flags] of [
    [of(edu), /vms\.yaml:1: .*\.socket: another process listens/, []],
    [of(nvme), /vms\.yaml:1: .*\.disks\[0\]: .*disk\.img/, []],
    [plain, /EADDRINUSE/, ['--metrics', `127.0.0.1:${metricsPort}`]],
  ] as const) {
    const { code, stdout, stderr } = await place.run(['serve', configured(config), ...flags]);
    expect([code, stdout.toString()]).toEqual([1, '']);
    expect(stderr).toMatch(words);
    expect(place.left).toEqual(left);
  }
  await using vmm = await Vmm.connect(socket.socket, {});
  expect(await vmm.bar(0).read32(0)).toBe(0x0100_00ed);
  first.child.kill('SIGTERM');
  expect((await first.ended).code).toBe(0);
});

test('a VMM that floods its function is served, and keeps neither another VM nor the control socket from it', async () => {
  const sockets = ['alpha', 'beta'].map((name) => join(place.files, `${name}.sock`));
  const vms = sockets.map((socket, n) => ({
    ...{ name: `vm${n}`, memory: 'plain' },
    functions: [{ device: 'edu', at: '00:04.0', socket }],
  }));
  const { child, ended } = await serving(configured(vmsOf(...vms)));
  const flooder = join(import.meta.dirname, 'flooding-vmm.ts');
  const flood = place.spawn([process.execPath, flooder, sockets[0] ?? '']);
  await flood.said(/answered/);
  using client = new ControlClient(controlSocket());
  await using vmm = await Vmm.connect(sockets[1] ?? '', {});
  const { gpa } = vmm.memory.allocate(new Uint8Array(4096));
  const answered = () => flood.stdout().length;
  const before = answered();
  for (let round = 0; round < 50; round++) {
    await eduReads(vmm, gpa, 4096);
    expect(await client.ask('ps', {})).toMatchObject([{ attached: 1 }, { attached: 1 }]);
  }
  // It went on all the while.
  await until(() => answered() > before, 10_000, 'the flood to go on');
  flood.child.kill('SIGKILL');
  await flood.ended;
  child.kill('SIGTERM');
  expect((await ended).code).toBe(0);
});

test('a file that is not there is named', async () => {
  const { code, stderr } = await place.run(['serve', join(place.files, 'none.yaml')]);
  expect(code).toBe(1);
  expect(stderr).toContain('none.yaml');
});
