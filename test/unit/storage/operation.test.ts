/** What a file system may answer and this host's does not: an engine that answers as it is told. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { StorageRequest } from '../../../src/storage/block-storage.ts';
import { type FileAbilities, Operation } from '../../../src/storage/operation.ts';
import { mapMemory } from '../../../src/storage/storage-buffers.ts';

const [EINTR, EIO, EAGAIN, EINVAL, ENOSPC, EOPNOTSUPP] = [4, 5, 11, 22, 28, 95];
const memory = mapMemory(1 << 20);
const ADDRESS = 0x10_0000;

function abilities(): FileAbilities {
  return { path: 'd.img', blockDevice: false, zeroes: true, discards: true };
}

function request(kind: StorageRequest['kind'], length: number, durable = false): StorageRequest {
  const moves = kind === 'read' || kind === 'write';
  const bytes = moves ? memory.subarray(0, length) : undefined;
  return { kind, offset: 4096, length, bytes, durable, done() {} };
}

test('short transfers go on where they stopped, however they are cut', () => {
  const cuts = fc.array(fc.integer({ min: 1, max: 5000 }), { maxLength: 50 });
  fc.assert(
    fc.property(fc.constantFrom('read', 'write'), cuts, (kind, lengths) => {
      const operation = new Operation(0, abilities());
      const length = lengths.reduce((sum, each) => sum + each, 0);
      if (length === 0) return;
      expect(operation.begin(request(kind, length), ADDRESS)).toBe(true);
      let moved = 0;
      for (const [index, each] of lengths.entries()) {
        expect(operation.call).toBe(kind);
        expect(operation.offset).toBe(4096 + moved);
        expect(operation.address).toBe(ADDRESS + moved);
        expect(operation.bytes?.byteOffset).toBe(moved);
        expect(operation.bytes?.length).toBe(operation.length);
        moved += each;
        expect(operation.advance(each)).toBe(index < lengths.length - 1);
      }
      expect(operation.error).toBeUndefined();
    }),
  );
});

test('an interrupted call is made again, but not for ever', () => {
  const operation = new Operation(0, abilities());
  operation.begin(request('write', 512), ADDRESS);
  let tries = 0;
  while (operation.advance(tries % 2 === 0 ? -EINTR : -EAGAIN)) expect(++tries).toBeLessThan(100);
  expect(tries).toBeGreaterThan(3);
  expect(operation.error).toMatchObject({ kind: 'write', errno: tries % 2 === 0 ? EINTR : EAGAIN });
  // The next one begins anew.
  operation.begin(request('write', 512), ADDRESS);
  expect(operation.error).toBeUndefined();
  expect(operation.advance(-EINTR)).toBe(true);
  expect(operation.advance(512)).toBe(false);
});

test('an error ends it, with file, range and errno in the message', () => {
  const operation = new Operation(0, abilities());
  operation.begin(request('write', 1024), ADDRESS);
  expect(operation.advance(512)).toBe(true);
  expect(operation.advance(-ENOSPC)).toBe(false);
  expect(operation.error).toMatchObject({ kind: 'write', errno: ENOSPC });
  expect(operation.error?.message).toBe(
    'disk d.img: expected write of 1024 bytes at offset 4096 (failed at 4608) to succeed, ' +
      'got ENOSPC (errno 28)',
  );
  operation.begin(request('write', 1024), ADDRESS);
  expect(operation.advance(0)).toBe(false);
  expect(operation.error?.errno).toBe(EIO);
});

test('a durable write asks for it in every piece', () => {
  const operation = new Operation(0, abilities());
  operation.begin(request('write', 1024, true), ADDRESS);
  expect(operation.call).toBe('durable-write');
  operation.advance(512);
  expect(operation.call).toBe('durable-write');
});

test('where ranges cannot be zeroed, zeros are written in pieces, from then on at once', () => {
  const file = abilities();
  const operation = new Operation(0, file);
  const length = 1_000_000 - (1_000_000 % 512);
  for (const [round, durable] of [true, false].entries()) {
    operation.begin(request('write-zeroes', length, durable), 0);
    if (round === 0) {
      expect(operation).toMatchObject({ call: 'fallocate', mode: 0x11, offset: 4096, length });
      expect(operation.advance(-EOPNOTSUPP)).toBe(true);
    }
    let at = 4096;
    while (operation.call === 'write') {
      expect(operation.offset).toBe(at);
      expect(operation.length).toBeLessThanOrEqual(256 * 1024);
      expect(operation.bytes?.length).toBe(operation.length);
      expect(operation.bytes?.every((byte) => byte === 0)).toBe(true);
      const moved = Math.min(operation.length, 100_000);
      at += moved;
      if (!operation.advance(moved)) break;
    }
    expect(at).toBe(4096 + length);
    if (durable) {
      expect(operation.call).toBe('datasync');
      expect(operation.advance(0)).toBe(false);
    }
    expect(operation.error).toBeUndefined();
    expect(file).toMatchObject({ zeroes: false, discards: true });
  }
});

test('where holes cannot be made, discard does nothing, and says so from then on', () => {
  const file = abilities();
  const operation = new Operation(0, file);
  operation.begin(request('discard', 4096), 0);
  expect(operation).toMatchObject({ call: 'fallocate', mode: 3, offset: 4096, length: 4096 });
  expect(operation.advance(-EOPNOTSUPP)).toBe(false);
  expect(operation.error).toBeUndefined();
  expect(file).toMatchObject({ zeroes: true, discards: false });
  expect(operation.begin(request('discard', 4096), 0)).toBe(false);
});

test('EINVAL of fallocate is a range that a block device cannot do, and an error of a file', () => {
  const operation = new Operation(0, { ...abilities(), blockDevice: true });
  operation.begin(request('write-zeroes', 512), 0);
  expect(operation.advance(-EINVAL)).toBe(true);
  expect(operation.call).toBe('write');
  const other = new Operation(0, abilities());
  other.begin(request('write-zeroes', 512), 0);
  expect(other.advance(-EINVAL)).toBe(false);
  expect(other.error?.errno).toBe(EINVAL);
});
