import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  truncateSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { lockImage } from '../../../src/storage/image-lock.ts';
import { ENGINES, image, open, scratch } from './disk.ts';

/** Descriptors of this process that name a file of this directory. */
function descriptorsIn(directory: string): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith(directory);
    } catch {
      return false;
    }
  }).length;
}

test.each([false, true])('what is no disk is refused by name, read-only: %s', async (readOnly) => {
  using directory = scratch();
  const at = (name: string) => join(directory.path, name);
  mkdirSync(at('folder'));
  image(directory.path, 0, 'empty');
  image(directory.path, 1000, 'odd');
  execFileSync('mkfifo', [at('pipe')]);
  const refusals = {
    missing: 'got no such file; make it first',
    'odd/inside': 'got a path that leads through something that is no directory',
    folder: 'expected a raw image file or a block device, got a directory',
    pipe: 'got a named pipe',
    empty: 'expected a raw image of a multiple of 512 bytes, got an empty one; give it a size',
    odd: 'expected a raw image of a multiple of 512 bytes, got one of 1000 bytes',
  };
  for (const [name, message] of Object.entries(refusals)) {
    const error = await open(at(name), { readOnly }).then(
      () => 'it opened',
      (got: Error) => got.message,
    );
    expect(error).toContain(`disk ${at(name)}: `);
    expect(error).toContain(message);
  }
  await expect(open('/dev/null', { readOnly })).rejects.toThrow('got a character device');
  expect(descriptorsIn(directory.path)).toBe(0);
});

test.skipIf(process.getuid?.() === 0)('a file without permission is refused by name', async () => {
  using directory = scratch();
  const path = image(directory.path, 4096);
  chmodSync(path, 0o400);
  await expect(open(path)).rejects.toThrow(/no permission; .* or give it read-only/);
  await (await open(path, { readOnly: true })).close();
});

test('a program that runs is no disk to write', async () => {
  await expect(open(process.execPath)).rejects.toThrow(
    /expected a raw image to read and write, got/,
  );
});

describe.each(ENGINES)('by %s', (engine) => {
  test('the choice is told', async () => {
    using directory = scratch();
    const path = image(directory.path, 1 << 20);
    const told: string[] = [];
    const storage = await open(path, { engine, log: (message) => told.push(message) });
    expect(told).toHaveLength(1);
    expect(told[0]).toContain(`disk ${path}: 1048576 bytes by ${engine}`);
    await storage.close();
    expect(descriptorsIn(directory.path)).toBe(0);
  });

  test('a writer is alone, readers share', async () => {
    using directory = scratch();
    const path = image(directory.path, 4096);
    const other = join(directory.path, 'another-name.img');
    linkSync(path, other);
    const writer = await open(path, { engine });
    for (const again of [path, other]) {
      await expect(open(again)).rejects.toThrow(
        `disk ${again}: expected an image that nobody else has open, got one that is in use; end the QEMU`,
      );
      await expect(open(again, { readOnly: true })).rejects.toThrow('that nobody writes');
    }
    await writer.close();
    const readers = [await open(path, { readOnly: true }), await open(other, { readOnly: true })];
    await expect(open(path, { engine })).rejects.toThrow('in use');
    await readers[0]?.close();
    await expect(open(path, { engine })).rejects.toThrow('in use');
    await readers[1]?.close();
    await (await open(path, { engine })).close();
    expect(descriptorsIn(directory.path)).toBe(0);
  });

  test('the size is what it is under the lock', async () => {
    using directory = scratch();
    const path = image(directory.path, 4096);
    truncateSync(path, 8192);
    const storage = await open(path, { engine });
    expect(storage.bytes).toBe(8192);
    await storage.close();
  });
});

test('a descriptor that cannot be locked is an error, not a lock', () => {
  const fd = openSync('/dev/null', 'r');
  closeSync(fd);
  expect(() => lockImage(fd, true)).toThrow('F_OFD_SETLK');
});
