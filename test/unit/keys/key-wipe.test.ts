import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Writable } from 'node:stream';
import { afterEach, expect, test, vi } from 'vitest';
import { keyForms } from './key-forms.ts';
import { countInMemory } from './memory-scan.ts';

/** Another process that holds the key; see key-holder.ts. */
class Holder {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  /** @param keys their bytes, to be sent through a socket each */
  constructor(memory: string, ...keys: readonly Uint8Array[]) {
    const script = join(import.meta.dirname, 'key-holder.ts');
    this.#child = spawn(process.execPath, [script, memory], {
      stdio: ['pipe', 'pipe', 'inherit', 'pipe', 'pipe'],
    });
    this.#answers = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
    for (const [index, key] of keys.entries()) (this.#child.stdio[3 + index] as Writable).end(key);
  }

  async tell(command: string): Promise<string> {
    this.#child.stdin!.write(`${command}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error(`expected an answer to ${command}, got the end of the process`);
    return value;
  }

  /** How often each needle occurs in what this process can read of the other's memory. */
  hits(needles: readonly Uint8Array[]): number[] {
    return countInMemory(this.#child.pid ?? 0, needles);
  }

  limits(): string {
    return readFileSync(`/proc/${this.#child.pid}/limits`, 'utf8');
  }

  async end(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.#child.stdin!.end();
    await once(this.#child, 'exit');
  }
}

// A process is started and its memory read: seconds on a busy machine.
vi.setConfig({ testTimeout: 30_000 });

let holder: Holder | undefined;
afterEach(async () => {
  await holder?.end();
  holder = undefined;
});

test.each([
  { memory: 'memfd_secret', end: 'destroy' },
  { memory: 'anonymous', end: 'revoke' },
])('a key in $memory memory is gone from the process after $end', async ({ memory, end }) => {
  const key = randomBytes(64);
  const needles = [0, 16, 32, 48].map((at) => key.subarray(at, at + 16));
  holder = new Holder(memory, key);
  expect(await holder.tell('load')).toBe('ok');
  // A loaded key lies in the table's memory alone, and secret memory cannot be read from outside.
  for (const count of holder.hits(needles)) expect(count).toBe(memory === 'anonymous' ? 1 : 0);
  expect(await holder.tell('use')).toBe('ok');
  // The scan sees keys where there are any: the schedules of libcrypto hold the key itself.
  const loaded = memory === 'anonymous' ? 1 : 0;
  for (const count of holder.hits(needles)) expect(count).toBeGreaterThan(loaded);
  expect(await holder.tell(end)).toBe('ok');
  expect(holder.hits(needles)).toEqual([0, 0, 0, 0]);
});

test('after a rotation the old key is gone from the process, and the new one after its revocation', async () => {
  const [old, next] = [randomBytes(64), randomBytes(64)];
  const of = (key: Buffer) => [0, 16, 32, 48].map((at) => key.subarray(at, at + 16));
  holder = new Holder('anonymous', old, next);
  for (const command of ['load', 'use', 'rotate']) expect(await holder.tell(command)).toBe('ok');
  // Both are in use: the scan would see them.
  for (const count of holder.hits([...of(old), ...of(next)])) expect(count).toBeGreaterThan(1);
  expect(await holder.tell('finish')).toBe('ok');
  expect(holder.hits(of(old))).toEqual([0, 0, 0, 0]);
  for (const count of holder.hits(of(next))) expect(count).toBeGreaterThan(1);
  expect(await holder.tell('revoke')).toBe('ok');
  expect(holder.hits([...of(old), ...of(next)])).toEqual(new Array(8).fill(0));
});

test('a revocation in the middle of a rotation wipes both keys', async () => {
  const keys = [randomBytes(64), randomBytes(64)] as const;
  const needles = keys.map((key) => key.subarray(0, 16));
  holder = new Holder('anonymous', ...keys);
  for (const command of ['load', 'use', 'rotate', 'revoke']) {
    expect(await holder.tell(command)).toBe('ok');
  }
  expect(holder.hits(needles)).toEqual([0, 0]);
});

test('a protected process leaves no core and opens its memory to no debugger of its user', async () => {
  holder = new Holder('memfd_secret', randomBytes(64));
  expect(await holder.tell('load')).toBe('ok');
  expect(await holder.tell('protected')).toBe('false');
  expect(await holder.tell('protect')).toBe('ok');
  expect(await holder.tell('protected')).toBe('true');
  expect(holder.limits()).toMatch(/^Max core file size\s+0\s+0\s/m);
  // Root may read it all the same.
  if (process.getuid?.() !== 0) expect(() => holder?.hits([])).toThrow(/EACCES/);
});

test('a key in use is in no heap snapshot and in no print', async () => {
  const key = randomBytes(64);
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-snapshot-'));
  try {
    holder = new Holder('memfd_secret', key);
    expect(await holder.tell('load')).toBe('ok');
    expect(await holder.tell('use')).toBe('ok');
    const printed = await holder.tell('print');
    const path = join(directory, 'heap.heapsnapshot');
    expect(await holder.tell(`snapshot ${path}`)).toBe('ok');
    const snapshot = readFileSync(path);
    expect(snapshot.includes('KeyTable')).toBe(true);
    expect(printed).toContain('70: active vm 1');
    for (const part of [key.subarray(0, 12), key.subarray(32, 44)]) {
      for (const form of keyForms(part)) {
        expect(snapshot.includes(form)).toBe(false);
        expect(Buffer.from(printed).includes(form)).toBe(false);
      }
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test('a key that ends early is refused, and what came of it is wiped', async () => {
  const key = randomBytes(40);
  holder = new Holder('anonymous', key);
  expect(await holder.tell('load')).toMatch(/expected a key of 64 bytes, got 40 and then the end/);
  expect(holder.hits([key.subarray(0, 16), key.subarray(16, 32)])).toEqual([0, 0]);
});
