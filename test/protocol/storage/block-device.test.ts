/** A block device of the host behind a disk: a loop device, where this process may make one. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { StorageBufferPool } from '../../../src/storage/storage-buffers.ts';
import { ENGINES, image, open, run, scratch } from '../../unit/storage/disk.ts';

const BYTES = 8 << 20;
const pool = new StorageBufferPool(2 << 20);

/** @returns its path, or undefined where there are none, or not for us */
function loopDevice(file: string): string | undefined {
  try {
    const args = ['--find', '--show', file];
    return execFileSync('losetup', args, { encoding: 'utf8', stdio: 'pipe' }).trim();
  } catch {
    return undefined;
  }
}

describe.each(ENGINES)('by %s', (engine) => {
  test('size, writes, zeroes, discard and lock', async (context) => {
    using directory = scratch();
    const file = image(directory.path, BYTES);
    const device = loopDevice(file);
    if (device === undefined) {
      context.skip('no loop device to be had');
      return;
    }
    try {
      const storage = await open(device, { engine });
      expect(storage).toMatchObject({ bytes: BYTES, readOnly: false, discards: true });
      const bytes = pool.take(2 << 20) as Uint8Array;
      for (let offset = 0; offset < BYTES; offset += 2 << 20) {
        bytes.fill(1 + offset / (2 << 20));
        await run(storage, { kind: 'write', offset, bytes, durable: offset === 0 });
      }
      await run(storage, { kind: 'write-zeroes', offset: 512, length: 1024 });
      await run(storage, { kind: 'discard', offset: 1 << 20, length: 64 * 1024 });
      await run(storage, { kind: 'flush' });
      expect(() =>
        storage.submit({
          ...{ kind: 'read', offset: BYTES - 512, length: 1024, bytes: bytes.subarray(0, 1024) },
          ...{ durable: false, done() {} },
        }),
      ).toThrow(RangeError);
      await run(storage, { kind: 'read', offset: 0, bytes });
      const model = new Uint8Array(2 << 20).fill(1).fill(0, 512, 1536);
      if (storage.discards) model.fill(0, 1 << 20, (1 << 20) + 64 * 1024);
      expect(Buffer.compare(bytes, model)).toBe(0);
      await expect(open(device, { readOnly: true })).rejects.toThrow('got one that is in use');
      pool.give(bytes);
      await storage.close();
      const after = readFileSync(file);
      expect(Buffer.compare(after.subarray(0, 2 << 20), model)).toBe(0);
      expect(after.subarray(BYTES - 4096).every((byte) => byte === 4)).toBe(true);
    } finally {
      execFileSync('losetup', ['--detach', device]);
    }
  });
});
