/** Disks of other processes: who may have one, what is in it when its process is killed, where it is full. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, expect, onTestFinished, test } from 'vitest';
import { addressOfBytes, declared } from '../../../src/ffi/libc.ts';
import { MNT_DETACH, MS_NODEV, MS_NOSUID, mount, umount } from '../../../src/ffi/mount.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import type { StorageError } from '../../../src/storage/block-storage.ts';
import { StorageBufferPool } from '../../../src/storage/storage-buffers.ts';
import { ENGINES, image, open, PLACES, run, scratch } from '../../unit/storage/disk.ts';

const BLOCK = 4096;
/** Should some block never come to its turn. */
const LINES_MAX = 100_000;
const cachestat = declared(
  'long syscall(long number, long fd, uintptr_t range, uintptr_t stat, long flags)',
)();
const pool = new StorageBufferPool(4 << 20);

/** Whatever becomes of the test, it does not outlive it. */
function ended(child: ChildProcess): ChildProcess {
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return child;
}

async function diskProcess(...args: string[]): Promise<{ child: ChildProcess; told: string[] }> {
  const child = ended(
    spawn(process.execPath, [join(import.meta.dirname, 'disk-process.ts'), ...args], {
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    }),
  );
  const message = await Promise.race([
    once(child, 'message').then(([got]) => got as { open: true; told: string[] }),
    once(child, 'exit').then(([code, signal]) => {
      throw new Error(`expected an open disk, got an end with ${code ?? signal}`);
    }),
  ]);
  return { child, told: message.told };
}

async function killed(child: ChildProcess): Promise<void> {
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

describe.each(ENGINES)('by %s', (engine) => {
  test('a disk that another process writes is refused, until that one is killed', async () => {
    using directory = scratch();
    const path = image(directory.path, BLOCK);
    const { child } = await diskProcess(path, engine, 'hold');
    await expect(open(path)).rejects.toThrow('got one that is in use');
    await expect(open(path, { readOnly: true })).rejects.toThrow('got one that is in use');
    await killed(child);
    await (await open(path, { engine })).close();
  });

  describe.each(PLACES)('on %s', (place) => {
    test.each(['durable', 'flush'])(
      'after SIGKILL: all that was acknowledged (%s)',
      async (mode) => {
        using directory = scratch(place);
        const path = image(directory.path, 32 * BLOCK);
        const { child } = await diskProcess(path, engine, mode);
        const safe = new Map<number, number>();
        let lines = 0;
        for await (const line of createInterface({
          input: child.stdout as NodeJS.ReadableStream,
        })) {
          const [block, number] = line.split(' ').map(Number);
          safe.set(block as number, number as number);
          // What was written into the pipe before the end is read to its end.
          lines++;
          if (lines >= LINES_MAX || (lines >= 400 && safe.size === 32)) child.kill('SIGKILL');
        }
        expect(lines).toBeGreaterThanOrEqual(400);
        expect(safe.size).toBe(32);
        const after = readFileSync(path);
        for (const [block, number] of safe) {
          const words = new Uint32Array(after.buffer, after.byteOffset + block * BLOCK, BLOCK / 4);
          // The one after it may have come as far, in part: each word is the one or the other.
          expect(words.every((word) => word === number || word === number + 1)).toBe(true);
        }
      },
    );
  });

  test('a disk on a full file system: ENOSPC for the write, and reads go on', async (context) => {
    using directory = scratch();
    const point = join(directory.path, 'full');
    mkdirSync(point);
    try {
      mount('tmpfs', point, 'tmpfs', MS_NOSUID | MS_NODEV, 'size=64k');
    } catch {
      context.skip('mounting needs root');
      return;
    }
    try {
      const storage = await open(image(point, 1 << 20), { engine });
      const bytes = (pool.take(1 << 20) as Uint8Array).fill(7);
      const full: StorageError = await run(storage, { kind: 'write', bytes }).then(
        () => undefined as never,
        (error) => error,
      );
      expect(full).toMatchObject({ name: 'StorageError', kind: 'write', errno: 28 });
      expect(full.message).toContain('ENOSPC');
      await run(storage, { kind: 'read', bytes: bytes.subarray(0, BLOCK) });
      pool.give(bytes);
      await storage.close();
    } finally {
      umount(point, MNT_DETACH);
    }
  });

  test('a write that the process may not make fails, and ends nothing else', async () => {
    using directory = scratch();
    const path = image(directory.path, 16 * BLOCK);
    const { child } = await diskProcess(path, engine, 'limit', `${8 * BLOCK}`);
    const [answer] = await once(child, 'message');
    expect(answer).toMatchObject({ errno: 27 });
    expect(answer.message).toContain('EFBIG');
    const [code] = await once(child, 'exit');
    expect(code).toBe(0);
  });

  test('a flush and a durable write leave nothing dirty in the page cache', async (context) => {
    using directory = scratch();
    const path = image(directory.path, 1 << 20);
    writeFileSync(path, Buffer.alloc(1 << 20));
    const storage = await open(path, { engine });
    const dirty = () => dirtyPages(path);
    if (dirty() === undefined) context.skip('this kernel has no cachestat');
    const bytes = pool.take(1 << 20) as Uint8Array;
    await run(storage, { kind: 'write', bytes });
    await run(storage, { kind: 'flush' });
    expect(dirty()).toBe(0);
    await run(storage, { kind: 'write', bytes: bytes.subarray(0, 64 * 1024), durable: true });
    expect(dirty()).toBe(0);
    await run(storage, { kind: 'write-zeroes', length: 64 * 1024, durable: true });
    expect(dirty()).toBe(0);
    // The counter would have told: a write without either is dirty for the seconds of a write-back.
    await run(storage, { kind: 'write', bytes: bytes.subarray(0, 64 * 1024) });
    expect(dirty()).toBeGreaterThan(0);
    pool.give(bytes);
    await storage.close();
    // close() flushes.
    expect(dirty()).toBe(0);
  });
});

/** Of a file's page cache, by cachestat(2); undefined where there is none. */
function dirtyPages(path: string): number | undefined {
  const fd = openSync(path, 'r');
  try {
    const words = new Uint32Array(new ArrayBuffer(128)); // the range at 0, of length 0: all; the counters at 64
    const at = addressOfBytes(new Uint8Array(words.buffer));
    return cachestat(451, fd, at, at + 64, 0) === 0 ? words[18] : undefined;
  } finally {
    closeSync(fd);
  }
}

describe('beside a QEMU', () => {
  const qemu = async (path: string, readOnly: boolean): Promise<ChildProcess> => {
    const { qemu: part } = await ensureParts();
    const drive = `file=${path},format=raw,if=none,id=disk,readonly=${readOnly ? 'on' : 'off'}`;
    const [program, ...args] = [
      ...part.command,
      ...['-machine', 'q35,accel=tcg', '-nodefaults', '-no-user-config', '-display', 'none', '-S'],
      ...['-m', '32M', '-qmp', 'stdio', '-drive', drive, '-device', 'virtio-blk-pci,drive=disk'],
    ];
    const env = { ...process.env, ...part.env };
    return ended(spawn(program as string, args, { env, stdio: ['pipe', 'pipe', 'pipe'] }));
  };

  /** The greeting comes before it has its disks, an answer after. */
  const running = async (process: ChildProcess): Promise<void> => {
    process.stdin?.write('{"execute":"qmp_capabilities"}\n');
    for await (const line of createInterface({ input: process.stdout as NodeJS.ReadableStream })) {
      if (line.includes('"return"')) return;
    }
    throw new Error('expected an answer of QEMU, got the end of its output');
  };

  test.each([true, false])(
    'an image that it has is refused, read-only there: %s',
    async (readOnly) => {
      using directory = scratch();
      const path = image(directory.path, 1 << 20);
      const other = await qemu(path, readOnly);
      await running(other);
      await expect(open(path)).rejects.toThrow('got one that is in use');
      const reading = open(path, { readOnly: true });
      if (readOnly) await (await reading).close();
      else await expect(reading).rejects.toThrow('expected an image that nobody writes');
      await killed(other);
      await (await open(path)).close();
    },
  );

  test.each([true, false])(
    'it refuses an image that we have, read-only here: %s',
    async (readOnly) => {
      using directory = scratch();
      const path = image(directory.path, 1 << 20);
      const storage = await open(path, { readOnly });
      const other = await qemu(path, false);
      let words = '';
      other.stderr?.on('data', (chunk) => {
        words += chunk;
      });
      const [code] = await once(other, 'close');
      expect(code).toBe(1);
      expect(words).toMatch(/Failed to get .*"write" lock/);
      await storage.close();
    },
  );

  test('both may read at once', async () => {
    using directory = scratch();
    const path = image(directory.path, 1 << 20);
    const storage = await open(path, { readOnly: true });
    const other = await qemu(path, true);
    await running(other);
    await killed(other);
    await storage.close();
  });
});

test('where io_uring is forbidden, threads do its work, and the log says why', async () => {
  using directory = scratch();
  const path = image(directory.path, 1 << 20);
  const { child, told } = await diskProcess(path, 'any', 'forbidden');
  expect(told).toHaveLength(2);
  expect(told[0]).toMatch(/no io_uring on this host \(io_uring_setup failed: EPERM .*threads/);
  expect(told[1]).toContain('by threads');
  await killed(child);
});

test('where io_uring is taken away later, requests fail, close() tells, and the process ends', async () => {
  using directory = scratch();
  const path = image(directory.path, 1 << 20);
  const { child } = await diskProcess(path, 'io_uring', 'refused');
  const answers: { errno?: number; closing?: string }[] = [];
  child.on('message', (answer) => answers.push(answer as (typeof answers)[number]));
  const [code] = await once(child, 'exit');
  expect(code).toBe(0);
  expect(answers).toHaveLength(2);
  expect(answers[0]).toMatchObject({ errno: 1, message: expect.stringContaining('EPERM') });
  expect(answers[1]?.closing).toContain('expected flush to succeed, got EPERM');
});
