import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

// A project with one dependency, a folder of its own: the real npm installs it without a network.
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'sealbus-bootstrap-'));
  mkdirSync(join(root, 'scripts'));
  mkdirSync(join(root, 'part'));
  const script = new URL('../../../scripts/bootstrap.mjs', import.meta.url);
  copyFileSync(script, join(root, 'scripts/bootstrap.mjs'));
  writeProject('1.0.0');
});
afterEach(() => rmSync(root, { recursive: true }));

function writeProject(version: string): void {
  const dependencies = { part: 'file:part' };
  const lock = {
    name: 'project',
    version: '1.0.0',
    lockfileVersion: 3,
    requires: true,
    packages: {
      '': { name: 'project', version: '1.0.0', dependencies },
      'node_modules/part': { resolved: 'part', link: true },
      part: { version },
    },
  };
  const project = { name: 'project', version: '1.0.0', dependencies };
  writeFileSync(join(root, 'package.json'), JSON.stringify(project));
  writeFileSync(join(root, 'part/package.json'), JSON.stringify({ name: 'part', version }));
  writeFileSync(join(root, 'package-lock.json'), JSON.stringify(lock));
}

const script = () => join(root, 'scripts/bootstrap.mjs');
const stamp = () => join(root, 'node_modules/.sealbus-lock');
const bootstrap = () => spawnSync(process.execPath, [script()], { encoding: 'utf8' });

test('installs what the lock says, then has nothing to do until the lock changes', () => {
  const first = bootstrap();
  expect(first.status, first.stderr).toBe(0);
  expect(first.stdout).toBe('');
  expect(first.stderr).toContain('npm packages ready');
  expect(existsSync(join(root, 'node_modules/part/package.json'))).toBe(true);

  expect(bootstrap()).toMatchObject({ status: 0, stdout: '', stderr: '' });

  writeProject('2.0.0');
  expect(bootstrap().stderr).toContain('installing npm packages');
  expect(bootstrap().stderr).toBe('');
}, 60_000);

test('without the stamp it looks, and an install that is cut short is done again', () => {
  bootstrap();
  rmSync(stamp());
  expect(bootstrap()).toMatchObject({ status: 0, stderr: '' }); // all there: only stamped
  expect(existsSync(stamp())).toBe(true);
  rmSync(stamp());
  rmSync(join(root, 'node_modules/part'));
  expect(bootstrap().stderr).toContain('npm packages ready');
}, 60_000);

test('of two at once one installs, the other says that it waits, both succeed', async () => {
  const run = () =>
    new Promise<{ code: number | null; said: string }>((resolve) => {
      const child = spawn(process.execPath, [script()], { stdio: ['ignore', 'pipe', 'pipe'] });
      let said = '';
      child.stderr.on('data', (chunk) => (said += chunk));
      child.once('close', (code) => resolve({ code, said }));
    });
  const both = await Promise.all([run(), run()]);
  expect(both.map(({ code }) => code)).toEqual([0, 0]);
  const said = both.map((one) => one.said);
  expect(said.filter((text) => text.includes('installing npm packages\n'))).toHaveLength(2 - 1);
}, 60_000);

test('npm’s failure is its exit code, said, and leaves no stamp', () => {
  writeFileSync(join(root, 'package-lock.json'), JSON.stringify({ lockfileVersion: 3 }));
  writeFileSync(join(root, 'package.json'), '{ not json');
  const { status, stderr } = bootstrap();
  expect(status).not.toBe(0);
  expect(stderr).toContain('expected npm to succeed');
  expect(existsSync(stamp())).toBe(false);
}, 60_000);
