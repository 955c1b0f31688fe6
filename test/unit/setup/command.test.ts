import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CommandError, runCommand } from '../../../src/setup/command.ts';

const timeout_ms = 10_000;
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-command-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

const shell = (script: string, more = {}) =>
  runCommand('sh', ['-c', script], { timeout_ms, cwd: directory, ...more });

test('output, exit code and status lines come back', async () => {
  const lines: string[] = [];
  const result = await shell('echo out; echo err >&2; echo one >&3; echo two >&3; exit 3', {
    allowFailure: true,
    onStatusLine: (line: string) => lines.push(line),
  });
  expect(result).toEqual({ code: 3, stdout: 'out\n', stderr: 'err\n' });
  expect(lines).toEqual(['one', 'two']);
});

test('a failure says which program, how it ended and its last words', async () => {
  const failing = shell('echo "no such thing" >&2; exit 7');
  await expect(failing).rejects.toThrow(CommandError);
  await expect(failing).rejects.toThrow(/'sh -c .*' to succeed, got exit code 7.*\nno such thing/s);
});

test('a program that is not there is a failure', async () => {
  const missing = runCommand('sealbus-no-such-program', [], { timeout_ms });
  await expect(missing).rejects.toThrow('sealbus-no-such-program');
});

// The grandchild would write its file a moment later, were it still alive.
const withGrandchild = '(sleep 0.3; touch late) & echo started >&3; wait';

test('at the time limit the whole process group ends', async () => {
  await expect(shell(withGrandchild, { timeout_ms: 100 })).rejects.toThrow('no end within 0.1 s');
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(existsSync(join(directory, 'late'))).toBe(false);
});

test('an abort ends the whole process group and gives the signal’s reason', async () => {
  const controller = new AbortController();
  const reason = new Error('Ctrl-C');
  const running = shell(withGrandchild, {
    signal: controller.signal,
    onStatusLine: () => controller.abort(reason),
  });
  await expect(running).rejects.toBe(reason);
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(existsSync(join(directory, 'late'))).toBe(false);
});

test('what was aborted before does not start', async () => {
  const signal = AbortSignal.abort(new Error('before'));
  await expect(shell('touch started', { signal })).rejects.toThrow('before');
  expect(existsSync(join(directory, 'started'))).toBe(false);
});
