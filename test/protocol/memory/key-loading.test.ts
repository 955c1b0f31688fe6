import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fileFlags } from '../../../src/ffi/libc.ts';
import { socketPair } from '../../../src/ffi/socket-pair.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { KeyTable } from '../../../src/keys/key-table.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { keyForms } from '../../unit/keys/key-forms.ts';
import { countInMemory } from '../../unit/keys/memory-scan.ts';
import { noSealedRam, sealedBench } from './sealed-bench.ts';

const MIB = 1024 * 1024;
const SLOT = keySlot(1);
const SECOND = keySlot(2);
const VM = vmId(1);

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

let directory: string;
const ends: (() => void)[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-test-'));
});
afterEach(() => {
  for (const end of ends.splice(0).reverse()) end();
  rmSync(directory, { recursive: true, force: true });
});

function opened(path: string, flags: number): number {
  const fd = openSync(path, flags);
  ends.push(() => closeSync(fd));
  return fd;
}

/** Both ends of a pipe. */
function pipe(): { read: number; write: number } {
  const path = join(directory, 'pipe');
  execFileSync('mkfifo', [path]);
  const read = opened(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return { read, write: openSync(path, 'w') };
}

function file(bytes: Uint8Array): number {
  const path = join(directory, 'key');
  writeFileSync(path, bytes);
  return opened(path, constants.O_RDONLY);
}

/** What a page of zeros but for its first byte is under a key, as page `page` of DRAM. */
function pageUnder(key: Uint8Array, page: number): Buffer {
  using table = new KeyTable();
  table.load(SLOT, file(key), { vm: VM, keyBits: key.length === 32 ? 128 : 256 });
  table.activate(SLOT);
  const plain = new Uint8Array(4096);
  plain[0] = 1;
  const into = Buffer.alloc(4096);
  table.cipher(SLOT).encrypt(plain, into, page, 0, 4096);
  return into;
}

describe.skipIf(missing !== undefined)('a key that comes through a descriptor', () => {
  test.each(['pipe', 'socket', 'file'] as const)(
    'out of a %s is the key of the slot, bound and activated after it, and of a rotation',
    async (kind) => {
      await using bench = await sealedBench(MIB);
      const { keys, memory, ram } = bench;
      const given = (key: Uint8Array): number => {
        if (kind === 'file') return file(key);
        const [read, write] = kind === 'pipe' ? Object.values(pipe()) : socketPair();
        if (kind === 'socket') ends.push(() => closeSync(read as number));
        writeSync(write as number, key);
        closeSync(write as number);
        rmSync(join(directory, 'pipe'), { force: true });
        return read as number;
      };
      const key = randomBytes(64);
      expect(await keys.load(SECOND, given(key))).toMatchObject({ state: 'loaded', generation: 1 });
      await expect(keys.activate(SECOND)).rejects.toThrow(/bound to a VM/);
      expect(() => memory.write(gpa(0), SECOND, Uint8Array.of(1))).toThrow();
      await keys.bind(SECOND, VM);
      await keys.activate(SECOND);
      memory.write(gpa(8192), SECOND, Uint8Array.of(1));
      expect(Buffer.compare(ram.dram().subarray(8192, 12288), pageUnder(key, 2))).toBe(0);

      const next = randomBytes(64);
      const descriptor = given(next);
      const flags = fileFlags(descriptor);
      await keys.rotate(SECOND, { descriptor });
      await keys.rotated(SECOND);
      expect(Buffer.compare(ram.dram().subarray(8192, 12288), pageUnder(next, 2))).toBe(0);
      // It is the caller's, as it was.
      expect(fileFlags(descriptor)).toBe(flags);
    },
  );

  test('is waited for, and nobody’s memory waits meanwhile', async () => {
    await using bench = await sealedBench(MIB);
    const { keys, memory } = bench;
    const { read, write } = pipe();
    const key = randomBytes(32);
    writeSync(write, key.subarray(0, 20));
    let isLoaded = false;
    const loaded = keys.load(SECOND, read, { vm: VM, keyBits: 128 }).then(() => {
      isLoaded = true;
    });
    for (let turns = 0; turns < 20; turns++) {
      memory.write(gpa(turns * 100), SLOT, new Uint8Array(5000));
      await bench.ram.counters();
    }
    expect(isLoaded).toBe(false);
    writeSync(write, key.subarray(20));
    closeSync(write);
    await loaded;
    expect(await keys.activate(SECOND)).toMatchObject({ keyBits: 128 });
    memory.write(gpa(8192), SECOND, Uint8Array.of(1));
    const page = bench.ram.dram().subarray(8192, 12288);
    expect(Buffer.compare(page, pageUnder(key, 2))).toBe(0);
  });

  test.each([
    ['one that ends early', randomBytes(63), /expected a key of 64 bytes, got 63 and then the end/],
    ['equal halves', Buffer.alloc(64, 0x77), /two halves differ/],
    ['nothing', Buffer.alloc(0), /expected a key of 64 bytes, got 0 and then the end/],
  ])('is refused where it is no key: %s', async (_name, bytes, words) => {
    await using bench = await sealedBench(MIB);
    const { keys } = bench;
    for (const step of ['load', 'rotate'] as const) {
      const { read, write } = pipe();
      writeSync(write, bytes);
      closeSync(write);
      rmSync(join(directory, 'pipe'));
      if (step === 'load') await expect(keys.load(SECOND, read)).rejects.toThrow(words);
      else await expect(keys.rotate(SLOT, { descriptor: read })).rejects.toThrow(words);
    }
    expect(keys.list()).toMatchObject([{ slot: SLOT, state: 'active', generation: 1 }]);
    await keys.generate(SECOND);
    expect(bench.failures).toEqual([]);
  });

  test('is refused in a file of another size, in a directory, and by a slot that has one', async () => {
    await using bench = await sealedBench(MIB);
    const { keys, controller } = bench;
    await expect(keys.load(SECOND, file(randomBytes(65)))).rejects.toThrow(/exactly 64 bytes/);
    const folder = opened(directory, constants.O_RDONLY);
    await expect(keys.load(SECOND, folder)).rejects.toThrow(/a file, a pipe or a socket/);
    const key = file(randomBytes(64));
    await expect(keys.load(SLOT, key)).rejects.toThrow(/empty to load it, got one that is active/);
    // The controller itself says so too.
    await expect(controller.keys.load(SLOT, key)).rejects.toThrow(/got one that is active/);
    // What was left on the channel by that is nobody's key.
    await keys.load(SECOND, key);
  });
});

/** A device's process that is given keys; see key-owner.ts. */
class Owner {
  readonly #child: ChildProcess;

  constructor(...keys: readonly Uint8Array[]) {
    this.#child = spawn(process.execPath, [join(import.meta.dirname, 'key-owner.ts')], {
      stdio: ['ignore', 'inherit', 'inherit', 'pipe', 'pipe', 'ipc'],
    });
    for (const [index, key] of keys.entries()) (this.#child.stdio[3 + index] as Writable).end(key);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async hears(): Promise<unknown> {
    const [{ value }] = (await once(this.#child, 'message')) as [{ value: unknown }];
    return value;
  }

  tell(command: string): Promise<unknown> {
    this.#child.send(command);
    return this.hears();
  }

  async end(): Promise<void> {
    const gone = once(this.#child, 'exit');
    expect(await this.tell('end')).toEqual([]);
    await gone;
  }
}

describe.skipIf(missing !== undefined)('where a key is', () => {
  test('in the controller while it is in use, never in the device’s process, and nowhere afterwards', async () => {
    const [old, next] = [randomBytes(64), randomBytes(64)];
    const parts = [old, next].flatMap((key) => [key.subarray(0, 16), key.subarray(32, 48)]);
    const owner = new Owner(old, next);
    expect(await owner.hears()).toBe('ready');
    const controller = (await owner.tell('controller')) as number;
    const inController = () => countInMemory(controller, parts).map((count) => count > 0);
    expect(await owner.tell('load')).toMatchObject({ state: 'active', vm: VM, generation: 1 });
    expect(await owner.tell('use')).toBe('used');
    // The engine's schedules hold the key: the scan sees it where it is.
    expect(inController()).toEqual([true, true, false, false]);
    expect(await owner.tell('rotate')).toMatchObject({ state: 'done', generation: 2 });
    expect(await owner.tell('use')).toBe('used');
    expect(inController()).toEqual([false, false, true, true]);

    const path = join(directory, 'heap.heapsnapshot');
    const printed = Buffer.from(String(await owner.tell(`snapshot ${path}`)));
    const snapshot = readFileSync(path);
    expect(snapshot.includes('ControllerKeys')).toBe(true);
    for (const part of parts) {
      for (const form of keyForms(part)) {
        expect(snapshot.includes(form)).toBe(false);
        expect(printed.includes(form)).toBe(false);
      }
    }
    expect(countInMemory(owner.pid, parts)).toEqual([0, 0, 0, 0]);

    expect(await owner.tell('revoke')).toMatchObject({ state: 'revoked', generation: 2 });
    expect(inController()).toEqual([false, false, false, false]);
    await owner.end();
  });
});
