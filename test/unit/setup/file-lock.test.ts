import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { lockFile } from '../../../src/setup/file-lock.ts';
import { SetupError } from '../../../src/setup/setup-error.ts';

let directory: string;
let path: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-lock-'));
  path = join(directory, 'lock');
});
afterEach(() => rmSync(directory, { recursive: true }));

const module = new URL('../../../src/setup/file-lock.ts', import.meta.url).href;

/** Another process that takes the lock, says so, and holds it until it is killed. */
async function startHolder() {
  const code = `
    const { lockFile } = await import(${JSON.stringify(module)});
    globalThis.lock = await lockFile(${JSON.stringify(path)});
    process.stdout.write('held');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  return { pid: child.pid, kill: () => child.kill('SIGKILL') && exited };
}

test('the second waits, is told who holds it, and gets it when the first lets go', async () => {
  const first = await lockFile(path);
  const order: string[] = [];
  let holder: number | undefined;
  const second = lockFile(path, { onWait: (pid) => (holder = pid) }).then((lock) => {
    order.push('second has it');
    return lock;
  });
  await new Promise((resolve) => setTimeout(resolve, 250));
  order.push('first lets go');
  first[Symbol.dispose]();
  (await second)[Symbol.dispose]();
  expect(order).toEqual(['first lets go', 'second has it']);
  expect(holder).toBe(process.pid);
});

test('a holder that was killed holds up nobody', async () => {
  const holder = await startHolder();
  await expect(lockFile(path, { timeout_ms: 50 })).rejects.toThrow(`process ${holder.pid}`);
  await holder.kill();
  const lock = await lockFile(path, { timeout_ms: 1000 });
  lock[Symbol.dispose]();
});

test('waiting ends at the time limit and at an abort', async () => {
  using _held = await lockFile(path);
  await expect(lockFile(path, { timeout_ms: 1 })).rejects.toBeInstanceOf(SetupError);
  const controller = new AbortController();
  const waiting = lockFile(path, { signal: controller.signal });
  const reason = new Error('enough');
  controller.abort(reason);
  await expect(waiting).rejects.toBe(reason);
});
