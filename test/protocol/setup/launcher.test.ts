/** scripts/sealbus.mjs: the same arguments, streams, signals and exit code, by whichever Node. */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

const main = `
  const [what, value]: readonly string[] = process.argv.slice(2);
  if (what === 'echo') console.log(JSON.stringify(process.argv.slice(2)));
  else if (what === 'exit') process.exit(Number(value));
  else if (what === 'cat') process.stdin.pipe(process.stdout);
  else if (what === 'die') process.kill(process.pid, 'SIGKILL');
  else {
    process.on('SIGTERM', () => process.exit(17));
    console.log('ready');
    setInterval(() => {}, 1000);
  }`;

let root: string;
let script: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'sealbus-launcher-'));
  for (const name of ['scripts', 'src/cli', 'node_modules']) {
    mkdirSync(join(root, name), { recursive: true });
  }
  script = join(root, 'scripts/sealbus.mjs');
  copyFileSync(new URL('../../../scripts/sealbus.mjs', import.meta.url), script);
  writeFileSync(join(root, 'src/cli/main.ts'), main);
  writeFileSync(join(root, 'package.json'), '{ "type": "module" }');
  const lock = '{ "lockfileVersion": 3 }';
  writeFileSync(join(root, 'package-lock.json'), lock);
  const stamp = `${createHash('sha256').update(lock).digest('hex')}\n`; // as bootstrap.mjs leaves it
  writeFileSync(join(root, 'node_modules/.sealbus-lock'), stamp);
});
afterAll(() => rmSync(root, { recursive: true }));

const launch = (args: readonly string[], input = '') =>
  spawnSync(process.execPath, [script, ...args], { encoding: 'utf8', input });

test('arguments and standard streams pass through', () => {
  expect(JSON.parse(launch(['echo', '--flag', '', 'a b']).stdout)).toEqual([
    'echo',
    '--flag',
    '',
    'a b',
  ]);
  expect(launch(['cat'], 'from stdin').stdout).toBe('from stdin');
});

test('the exit code is the command’s; 128 and the number where a signal killed it', () => {
  expect(launch(['exit', '0']).status).toBe(0);
  expect(launch(['exit', '124']).status).toBe(124);
  expect(launch(['die']).status).toBe(128 + 9);
});

test('a signal sent to the launcher reaches the command', async () => {
  const child = spawn(process.execPath, [script, 'wait'], { stdio: ['ignore', 'pipe', 'inherit'] });
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const ended = new Promise((resolve) => child.once('close', resolve));
  child.kill('SIGTERM');
  expect(await ended).toBe(17);
});

test('packages of another lock file are not run on: set-up comes first, and its failure ends it', () => {
  writeFileSync(join(root, 'scripts/bootstrap.mjs'), 'process.exit(3)');
  expect(launch(['exit', '0']).status).toBe(0); // in step: not called
  writeFileSync(join(root, 'package-lock.json'), '{ "lockfileVersion": 3, "requires": true }');
  expect(launch(['exit', '0']).status).toBe(3);
});
