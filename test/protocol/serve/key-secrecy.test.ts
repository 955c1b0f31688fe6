/**
 * Where the bytes of keys are that `sealbus serve` and `sealbus key` are given: in the memory controller while they
 * are in use, and nowhere else at any time.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import { ControlClient } from '../../../src/serve/control/control-client.ts';
import { keyForms } from '../../unit/keys/key-forms.ts';
import { countInMemory } from '../../unit/keys/memory-scan.ts';
import { RunPlace, repository, until } from '../cli/sealbus.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { eduReads, eduWrites } from './edu-transfer.ts';
import { GPA, MIB, vmsOf } from './service-bench.ts';

const isRoot = process.getuid?.() === 0;
/** Whether the kernel writes a core where the process is (core(5)), and the limit may be raised. */
const coresHere =
  /^[^|/]/.test(readFileSync('/proc/sys/kernel/core_pattern', 'utf8')) &&
  spawnSync('sh', ['-c', 'ulimit -c unlimited']).status === 0;
const SECTION = 2 ** 24;

let place: RunPlace;
beforeEach(() => {
  place = new RunPlace();
});
afterEach(() => {
  place[Symbol.dispose]();
});

/** A key in a file, and two pieces of it that nobody else has. */
function newKey(name: string) {
  const key = randomBytes(64);
  const path = join(place.files, name);
  writeFileSync(path, key);
  return { key, path, parts: [key.subarray(0, 16), key.subarray(32, 48)] };
}

type Key = ReturnType<typeof newKey>;

const command = `'${process.execPath}' '${join(repository, 'src/cli/main.ts')}'`;

function shell(line: string, env: Readonly<Record<string, string>> = {}) {
  return place.spawn(['sh', '-c', line], { cwd: place.files, env });
}

/** A command of sealbus that is to end well. @returns all that it has printed */
async function sealbus(line: string): Promise<string> {
  const { code, stdout, stderr } = await shell(`exec ${command} ${line}`).ended;
  expect(code, stderr).toBe(0);
  return `${stdout}${stderr}`;
}

/** alpha's key comes out of a descriptor; whatever may be recorded is. */
async function serve(key: Key, env: Readonly<Record<string, string>> = {}) {
  const config = join(place.files, 'vms.json');
  const socket = join(place.files, 'edu.sock');
  const functions = [{ device: 'edu', at: '00:04.0', socket }];
  writeFileSync(config, vmsOf({ name: 'alpha', key: { descriptor: 7 }, functions }));
  const flags = `--json --accel tcg --record record.ndjson --metrics 127.0.0.1:0`;
  const line = `ulimit -c unlimited; exec ${command} serve ${config} ${flags} 7<${key.path}`;
  const running = shell(line, { SEALBUS_TRACE: join(place.files, 'traces'), ...env });
  await running.said(/"control":"[^"]+".*\n/);
  return { ...running, pid: running.child.pid ?? 0, socket };
}

/** Has the CPU's way and a device's go through the VM's keys. */
async function useMemory(socket: string): Promise<void> {
  const ram = join(place.mounts[0] ?? '', 'vm1');
  await using vmm = await Vmm.connect(socket, { gpa: GPA, bytes: 64 * MIB, file: ram });
  const { gpa, length } = vmm.memory.allocate(new Uint8Array(1000).fill(7));
  await eduReads(vmm, gpa, length);
  await eduWrites(vmm, gpa + 5, 99);
}

function firstParts(keys: readonly Key[]): Buffer[] {
  return keys.map(({ parts: [first = Buffer.alloc(0)] }) => first);
}

function partsOf(keys: readonly Key[]): Buffer[] {
  return keys.flatMap(({ parts }) => parts);
}

/** Whether any form of any piece is in what was printed or written. */
function shows(bytes: Buffer, keys: readonly Key[]): boolean {
  return partsOf(keys).some((part) => keyForms(part).some((form) => bytes.includes(form)));
}

/** Whether a file has any of them as they are; files that do not fit memory as well. */
function fileHas(path: string, keys: readonly Key[]): boolean {
  const parts = partsOf(keys);
  const file = openSync(path, 'r');
  const section = Buffer.alloc(SECTION + 64);
  try {
    for (let at = 0; ; at += SECTION) {
      const got = section.subarray(0, readSync(file, section, 0, section.length, at));
      if (got.length === 0) return false;
      if (parts.some((part) => got.includes(part))) return true;
    }
  } finally {
    closeSync(file);
  }
}

function filesIn(where: string, names: RegExp): string[] {
  return readdirSync(where, { recursive: true, encoding: 'utf8' })
    .filter((name) => names.test(name))
    .map((name) => join(where, name));
}

function controlSocket(): string {
  const [run = ''] = place.directories;
  return join(place.path, 'sealbus', run, 'control.sock');
}

describe.skipIf(noSealedRam() !== undefined)('keys that are served', { timeout: 180_000 }, () => {
  test('are in no print, record, counter, trace, environment, heap snapshot nor in the memory of who serves; in the controller’s until they are wiped', async () => {
    const [own, next, other, third] = ['own', 'next', 'other', 'third'].map(newKey) as [
      Key,
      Key,
      Key,
      Key,
    ];
    const keys = [own, next, other, third];
    const { child, pid, socket, ended } = await serve(own, {
      NODE_OPTIONS: `--heapsnapshot-signal=SIGUSR2 --diagnostic-dir=${place.files}`,
    });
    const { controller } = place;
    // Root alone may look into the controller.
    const inController = (...expected: readonly boolean[]) => {
      if (!isRoot) return;
      const counts = countInMemory(controller, firstParts(keys));
      expect(counts.map((count) => count > 0)).toEqual(expected);
    };
    const notHere = () => expect(countInMemory(pid, firstParts(keys))).toEqual([0, 0, 0, 0]);
    const said: string[] = [];
    const step = async (line: string) => said.push(await sealbus(line));

    await useMemory(socket);
    // The engine's schedules hold the key: the scan sees it where it is.
    inController(true, false, false, false);
    notHere();
    using client = new ControlClient(controlSocket());
    const bind = (target: string) => client.ask('bind', { rid: '00:04.0', target });
    for (const [slot, { path }] of [
      [9, other],
      [10, third],
    ] as const) {
      await step(`key load ${slot} --vm alpha --json <${path}`);
      await client.ask('key-activate', { slot });
      await bind(String(slot));
      await useMemory(socket);
    }
    await bind('alpha');
    inController(true, false, true, true);
    await step(`key rotate alpha --fd 5 --wait --json 5<${next.path}`);
    await useMemory(socket);
    // The old one was wiped at the rotation's end.
    inController(false, true, true, true);
    notHere();

    for (const process_ of [pid, controller]) {
      process.kill(process_, 'SIGUSR2');
      const snapshots = () =>
        filesIn(place.files, new RegExp(`^Heap\\..*\\.${process_}\\..*heapsnapshot$`));
      await until(() => snapshots().length === 1, 60_000, `a heap snapshot of ${process_}`);
      // It answers once the snapshot is whole: counters are the controller's.
      await client.ask('metrics', {});
      const snapshot = readFileSync(snapshots()[0] ?? '');
      expect(snapshot.includes(process_ === pid ? 'ControllerKeys' : 'KeyTable')).toBe(true);
      expect(shows(snapshot, keys)).toBe(false);
    }

    for (const line of ['key list', 'inspect alpha --json', 'metrics']) await step(line);
    await step('key revoke 9');
    inController(false, true, false, true);
    await step('key destroy 10');
    inController(false, true, false, false);
    await step('vm remove alpha');
    inController(false, false, false, false);
    for (const one of isRoot ? [pid, controller] : [pid]) {
      expect(countInMemory(one, partsOf(keys)).every((count) => count === 0)).toBe(true);
    }
    for (const one of [pid, controller]) {
      for (const what of ['environ', 'cmdline']) {
        if (one === controller && !isRoot) continue;
        expect(shows(readFileSync(`/proc/${one}/${what}`), keys)).toBe(false);
      }
    }
    child.kill('SIGTERM');
    const { code, stdout, stderr } = await ended;
    expect(code, stderr).toBe(0);
    const written = [
      ...filesIn(place.files, /record\.ndjson$/),
      ...filesIn(place.files, /^traces\/./),
    ];
    expect(written).toHaveLength(2);
    const files = written.map((path) => readFileSync(path));
    expect(files[0]?.includes('"reason":"rotation-done"')).toBe(true);
    expect(files[1]?.includes('"kind":"dma"')).toBe(true);
    const all = Buffer.concat([stdout, Buffer.from(stderr + said.join('')), ...files]);
    expect(shows(all, keys)).toBe(false);
  });

  test('that are still on their way are in no process: whoever waits does not read them', async () => {
    const own = newKey('own');
    const { child, pid, ended } = await serve(own);
    const pipe = join(place.files, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const late = randomBytes(64);
    const load = shell(`exec ${command} key load 9 --vm alpha --json <${pipe}`);
    const write = openSync(pipe, 'w');
    writeSync(write, late.subarray(0, 63));
    // It has asked, and the host waits for the last byte.
    const held = () =>
      readdirSync(`/proc/${pid}/fd`).filter((fd) => {
        try {
          return readlinkSync(`/proc/${pid}/fd/${fd}`) === pipe;
        } catch {
          return false; // closed meanwhile
        }
      });
    await until(() => held().length > 0, 30_000, 'the descriptor to come to who serves');
    const parts = [late.subarray(0, 16), late.subarray(32, 48)];
    for (const one of [load.child.pid ?? 0, pid, ...(isRoot ? [place.controller] : [])]) {
      expect(countInMemory(one, parts)).toEqual([0, 0]);
    }
    writeSync(write, late.subarray(63));
    closeSync(write);
    expect((await load.ended).code).toBe(0);
    expect(held()).toEqual([]);
    child.kill('SIGTERM');
    await ended;
  });

  test.skipIf(!coresHere)(
    'are in no core dump: who serves leaves one without them, the memory controller none',
    async () => {
      const [own, next] = [newKey('own'), newKey('next')];
      const cores = () => filesIn(place.files, /^core/);
      const first = await serve(own);
      await useMemory(first.socket);
      await sealbus(`key rotate alpha --fd 5 --wait 5<${next.path}`);
      await useMemory(first.socket);
      process.kill(first.pid, 'SIGABRT');
      expect(await first.ended).toMatchObject({ signal: 'SIGABRT' });
      expect(cores()).toHaveLength(1);
      const [core = ''] = cores();
      // What it knows of its VM is in it.
      expect(fileHas(core, [{ ...own, parts: [Buffer.from('record.ndjson')] }])).toBe(true);
      expect(fileHas(core, [own, next])).toBe(false);
      rmSync(core);

      const second = await serve(own);
      await useMemory(second.socket);
      process.kill(place.controller, 'SIGABRT');
      const { code, stderr } = await second.ended;
      expect([code, stderr]).toEqual([1, expect.stringMatching(/its end \(SIGABRT\)/)]);
      expect(cores()).toEqual([]);
      expect(place.left).toEqual([]);
    },
  );
});
