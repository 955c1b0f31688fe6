import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { RunDirectory } from '../../../src/machine/run-directory.ts';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'sealbus-unit-'));
  vi.stubEnv('XDG_RUNTIME_DIR', home);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(home, { recursive: true, force: true });
});

test('a run has a directory of its own, for this user alone, and takes it away', () => {
  const one = RunDirectory.create();
  const two = RunDirectory.create();
  expect(one.path).not.toBe(two.path);
  expect(statSync(join(home, 'sealbus')).mode & 0o777).toBe(0o700);
  expect(statSync(one.path).mode & 0o777).toBe(0o700);
  writeFileSync(one.socket('0000-00-04-0'), '');
  one[Symbol.dispose]();
  expect(existsSync(one.path)).toBe(false);
  expect(existsSync(two.path)).toBe(true);
  two[Symbol.dispose]();
});

test('what a dead process left is cleared away; what a live one has, and what is not ours, stays', () => {
  const base = join(home, 'sealbus');
  mkdirSync(base, { mode: 0o700 });
  const alive = RunDirectory.create();
  // The number of this process with another start: a process that was there before it.
  const dead = join(base, `${process.pid}-1-abcdef`);
  mkdirSync(dead);
  writeFileSync(join(dead, 'left.sock'), '');
  const foreign = join(base, 'notes');
  mkdirSync(foreign);
  RunDirectory.create()[Symbol.dispose]();
  expect([dead, alive.path, foreign].map((path) => existsSync(path))).toEqual([false, true, true]);
});

test('a directory that others may enter is refused', () => {
  mkdirSync(join(home, 'sealbus'), { mode: 0o755 });
  expect(() => RunDirectory.create()).toThrow(/this user alone.*mode 755/);
});

test('a socket’s path has room for it in a socket address', () => {
  const run = RunDirectory.create();
  expect(run.socket('x'.repeat(500)).length - run.path.length).toBeLessThan(32);
  run[Symbol.dispose]();
});

test('one that is too far down for sockets in it is refused, with what to do, and nothing is made', () => {
  const deep = join(home, 'x'.repeat(90));
  mkdirSync(deep);
  vi.stubEnv('XDG_RUNTIME_DIR', deep);
  expect(() => RunDirectory.create()).toThrow(
    /at most 107 bytes.*set XDG_RUNTIME_DIR to a shorter/,
  );
  expect(readdirSync(join(deep, 'sealbus'))).toEqual([]);
});

test('its path is as the mount table has it, also behind a symbolic link', () => {
  const link = join(home, 'link');
  mkdirSync(join(home, 'real'));
  symlinkSync(join(home, 'real'), link);
  vi.stubEnv('XDG_RUNTIME_DIR', link);
  using run = RunDirectory.create();
  expect(run.path).toBe(realpathSync(run.path));
});
