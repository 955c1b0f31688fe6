/** The parts as set-up leaves them on this host; what is missing is made first. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { beforeAll, describe, expect, test } from 'vitest';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { findParts } from '../../../src/setup/find-parts.ts';
import { cacheRoot } from '../../../src/setup/part-cache.ts';
import type { Parts } from '../../../src/setup/parts.ts';
import type { SetupEvent } from '../../../src/setup/progress.ts';
import { qemuVersionMin } from '../../../src/setup/qemu.ts';
import { SetupError } from '../../../src/setup/setup-error.ts';
import { isAtLeast } from '../../../src/setup/version.ts';

let parts: Parts;
beforeAll(async () => {
  parts = await ensureParts();
}, 600_000);

const noArchive = { SEALBUS_DEBIAN_MIRROR: 'file:/nowhere/debian' };
const ensureModule = new URL('../../../src/setup/ensure-parts.ts', import.meta.url).href;

test('the second time it does nothing: no event, no network, and a few milliseconds', async () => {
  const events: SetupEvent[] = [];
  const began = performance.now();
  const again = await ensureParts({ offline: true, progress: (event) => events.push(event) });
  expect(performance.now() - began).toBeLessThan(500); // a loaded machine; it takes 1
  expect(again).toEqual(parts);
  expect(events).toEqual([]);
});

test('QEMU runs, is new enough and has the device', () => {
  const [program, ...args] = parts.qemu.command;
  const env = { ...process.env, ...parts.qemu.env };
  const ask = (...more: string[]) =>
    spawnSync(program, [...args, ...more], { env, encoding: 'utf8' }).stdout;
  expect(ask('--version')).toContain(`version ${parts.qemu.version}`);
  expect(isAtLeast(parts.qemu.version, qemuVersionMin)).toBe(true);
  expect(ask('-device', 'vfio-user-pci,help')).toContain('x-msg-timeout');
});

test('libvfio-user loads beside the host’s libc and exports its API alone', () => {
  const library = koffi.load(parts.libvfioUser.library);
  expect(library.func('void *vfu_get_private(void *context)')).toBeTypeOf('function');
  expect(() => library.func('int json_object_put(void *object)')).toThrow();
  for (const name of ['include/libvfio-user.h', 'samples/server.c', 'lib/tran.c']) {
    expect(existsSync(join(parts.libvfioUser.source, name)), name).toBe(true);
  }
});

test('busybox is one program that needs no library', () => {
  const { stdout } = spawnSync(parts.busybox.path, ['echo', 'here'], { encoding: 'utf8' });
  expect(stdout).toBe('here\n');
  const loader = spawnSync('ldd', [parts.busybox.path], { encoding: 'utf8' });
  expect(loader.stdout + loader.stderr).toMatch(/not a dynamic|statically/);
});

test('doctor lists every part as found, with version and place', async () => {
  const reports = await findParts();
  for (const name of ['qemu', 'libvfio-user', 'kernel', 'busybox']) {
    const report = reports.find((one) => one.name === name);
    expect(report).toMatchObject({ kind: 'part', found: true });
    expect(report?.version).toBeTruthy();
    expect(existsSync(report?.where ?? '')).toBe(true);
  }
  for (const report of reports) expect(report.found || report.remedy).toBeTruthy();
});

describe('on an empty cache', () => {
  /** Runs ensureParts in a process of its own with another cache. */
  function start(cache: string, options: string, env: Record<string, string> = {}) {
    const code = `
      const { ensureParts } = await import(${JSON.stringify(ensureModule)});
      try {
        await ensureParts(${options});
      } catch (error) {
        console.log(error.name + ': ' + error.message);
        process.exit(3);
      }`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
      env: { ...process.env, ...env, XDG_CACHE_HOME: cache },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout.on('data', (chunk) => {
      said += chunk;
    });
    const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) =>
      child.once('close', (code, signal) => resolve({ code, signal })),
    );
    return { child, ended, said: () => said };
  }

  test('offline: what is missing is named, nothing is fetched', async ({ task }) => {
    await using cache = await temporaryCache(task.id);
    const run = start(cache.path, '{ offline: true }');
    expect((await run.ended).code).toBe(3);
    expect(run.said()).toMatch(/^SetupError: .*no libvfio-user, no kernel, no busybox/);
    expect(readdirSync(cache.path)).toEqual([]);
  });

  test('no archive at the address: an error with APT’s words, nothing left', async ({ task }) => {
    await using cache = await temporaryCache(task.id);
    const run = start(cache.path, '{}', noArchive);
    expect((await run.ended).code).toBe(3);
    expect(run.said()).toMatch(/^SetupError: .*nowhere\/debian/s);
    expect(readdirSync(join(cache.path, 'sealbus'))).toEqual(['set-up.lock']);
  }, 120_000);

  test('an archive that Debian did not sign is refused', async ({ task }) => {
    await using cache = await temporaryCache(task.id);
    await using mirror = await temporaryCache('mirror');
    for (const suite of ['trixie', 'trixie-backports']) {
      const directory = join(mirror.path, 'dists', suite);
      mkdirSync(directory, { recursive: true });
      const release = `Origin: Debian\nSuite: ${suite}\nCodename: ${suite}\nComponents: main\n`;
      writeFileSync(join(directory, 'Release'), `${release}Architectures: amd64\nSHA256:\n`);
    }
    const run = start(cache.path, '{}', { SEALBUS_DEBIAN_MIRROR: `file:${mirror.path}` });
    expect((await run.ended).code).toBe(3);
    expect(run.said()).toMatch(/^SetupError: .*is not signed/s);
    expect(readdirSync(join(cache.path, 'sealbus'))).toEqual(['set-up.lock']);
  }, 120_000);

  test('a SEALBUS_QEMU that does not do is said, not passed over', async ({ task }) => {
    await using cache = await temporaryCache(task.id);
    const run = start(cache.path, '{ offline: true }', { SEALBUS_QEMU: '/bin/true' });
    expect((await run.ended).code).toBe(3);
    expect(run.said()).toMatch(/SEALBUS_QEMU to name a QEMU .*, got \/bin\/true/);
  });

  // The server accepts and never answers: APT is at work, in the middle of its first fetch.
  test.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)(
    '%s in the middle',
    async (signal) => {
      await using cache = await temporaryCache(signal);
      const server = createServer();
      const asked = new Promise<void>((resolve) => server.once('connection', () => resolve()));
      const sockets: Socket[] = [];
      server.on('connection', (socket) => sockets.push(socket));
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const address = server.address();
      if (address === null || typeof address === 'string') throw new Error('expected a port');
      const mirror = { SEALBUS_DEBIAN_MIRROR: `http://127.0.0.1:${address.port}/debian` };
      const run = start(cache.path, '{}', mirror);
      await asked;
      const disconnected = Promise.all(
        sockets.map((socket) => new Promise((resolve) => socket.resume().once('close', resolve))),
      );
      run.child.kill(signal);
      // Caught or not, it dies of the signal; where it can, it has tidied up by then.
      expect((await run.ended).signal).toBe(signal);
      if (signal !== 'SIGKILL') {
        expect(readdirSync(join(cache.path, 'sealbus'))).toEqual(['set-up.lock']);
      }
      await disconnected; // APT's own children are gone too
      server.close();

      // The next run is held up by nothing and removes what was left.
      const next = start(cache.path, '{}', noArchive);
      expect((await next.ended).code).toBe(3);
      expect(readdirSync(join(cache.path, 'sealbus'))).toEqual(['set-up.lock']);
    },
    120_000,
  );
});

async function temporaryCache(label: string) {
  const path = await mkdtemp(join(tmpdir(), `sealbus-${label.replaceAll(/\W/g, '')}-`));
  expect(path).not.toBe(cacheRoot());
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

test('SetupError says what was expected, what was got and what to do', () => {
  const error = new SetupError({ expected: 'a', got: 'b', remedy: 'Do c.' });
  expect(error.message).toBe('set-up expected a, got b. Do c.');
});
