import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  addressOf,
  mapMemory,
  STORAGE_BUFFER_BYTES_MAX,
  StorageBufferPool,
} from '../../../src/storage/storage-buffers.ts';

const CHUNK = STORAGE_BUFFER_BYTES_MAX;

test('a buffer is as long as the next power of two from 4 KiB on, and begins at a page', () => {
  const pool = new StorageBufferPool(16 * CHUNK);
  const sizes = new Map([
    [1, 4096],
    [4096, 4096],
    [4097, 8192],
    [65536, 65536],
    [65537, 131072],
    [CHUNK, CHUNK],
  ]);
  for (const [wanted, got] of sizes) {
    const buffer = pool.take(wanted);
    expect(buffer?.length).toBe(got);
    expect((addressOf(buffer as Uint8Array) ?? 1) % 4096).toBe(0);
  }
});

test('any order of taking and giving: no two that are out overlap, and none is lost', () => {
  const action = fc.oneof(
    fc.record({ take: fc.integer({ min: 1, max: CHUNK }) }),
    fc.record({ take: fc.integer({ min: 1, max: 16384 }) }),
    fc.record({ give: fc.nat() }),
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 300 }), (actions) => {
      const pool = new StorageBufferPool(3 * CHUNK);
      const out: Uint8Array[] = [];
      for (const each of actions) {
        if ('take' in each) {
          const buffer = pool.take(each.take);
          if (buffer === undefined) {
            // A buffer is at most twice as long as wanted: so many bytes are out, or in larger pieces.
            expect(out.length).toBeGreaterThan(0);
            continue;
          }
          expect(buffer.length).toBeGreaterThanOrEqual(each.take);
          const [start, end] = [buffer.byteOffset, buffer.byteOffset + buffer.length];
          for (const other of out) {
            expect(other.byteOffset >= end || other.byteOffset + other.length <= start).toBe(true);
          }
          out.push(buffer);
        } else if (out.length > 0) {
          pool.give(out.splice(each.give % out.length, 1)[0] as Uint8Array);
        }
      }
      expect(pool.taken).toBe(out.length);
      for (const buffer of out) pool.give(buffer);
      // Nothing was lost: all of it can be had again, in the longest pieces and then in the shortest.
      const long = Array.from({ length: 3 }, () => pool.take(CHUNK));
      expect(long.every((buffer) => buffer !== undefined)).toBe(true);
      expect(pool.take(1)).toBeUndefined();
      for (const buffer of long) pool.give(buffer as Uint8Array);
      const short = Array.from({ length: (3 * CHUNK) / 4096 }, () => pool.take(1));
      expect(short.every((buffer) => buffer !== undefined)).toBe(true);
      expect(pool.take(1)).toBeUndefined();
    }),
    { numRuns: 60 },
  );
});

test('where no buffer of a size is left, a larger one is given', () => {
  const pool = new StorageBufferPool(CHUNK);
  const held = pool.take(CHUNK / 2);
  expect(pool.take(4096)?.length).toBe(CHUNK / 2);
  expect(pool.take(4096)).toBeUndefined();
  pool.give(held as Uint8Array);
  expect(pool.take(4096)?.length).toBe(CHUNK / 2);
});

test('a pool of more than 2 GiB takes back what lies behind them', () => {
  const pool = new StorageBufferPool(2 ** 31 + CHUNK);
  const all = Array.from({ length: 1025 }, () => pool.take(CHUNK));
  expect(pool.take(1)).toBeUndefined();
  for (const buffer of all) pool.give(buffer as Uint8Array);
  expect(pool.taken).toBe(0);
});

test('in steady state the same views come back', () => {
  const pool = new StorageBufferPool(CHUNK);
  const small = pool.take(4096) as Uint8Array;
  pool.give(small);
  const large = pool.take(CHUNK) as Uint8Array;
  pool.give(large);
  expect(pool.take(4096)).toBe(small);
  pool.give(small);
  expect(pool.take(CHUNK)).toBe(large);
});

test('what was not taken, or was given back, or only looks like one, is refused', () => {
  const pool = new StorageBufferPool(CHUNK);
  const buffer = pool.take(4096) as Uint8Array;
  const beside = pool.take(4096) as Uint8Array;
  for (const wrong of [
    buffer.subarray(0, 512),
    buffer.subarray(0),
    new Uint8Array(4096),
    mapMemory(4096),
  ]) {
    expect(() => pool.give(wrong)).toThrow(RangeError);
  }
  pool.give(buffer);
  expect(() => pool.give(buffer)).toThrow('expected a buffer that is taken');
  expect(pool.taken).toBe(1);
  pool.give(beside);
  expect(() => pool.take(0)).toThrow(RangeError);
  expect(() => pool.take(CHUNK + 1)).toThrow(RangeError);
  expect(() => pool.take(Number.NaN)).toThrow(RangeError);
  expect(() => new StorageBufferPool(4096)).toThrow(RangeError);
});

test('the memory lasts as long as a view of it, and no longer', () => {
  const source = join(import.meta.dirname, '../../../src/storage/storage-buffers.ts');
  const program = `
    import { readFileSync } from 'node:fs';
    import { setTimeout } from 'node:timers/promises';
    const { addressOf, mapMemory, StorageBufferPool } = await import(${JSON.stringify(source)});
    const mapped = (address) => readFileSync('/proc/self/maps', 'utf8').split('\\n').some((line) => {
      const [from, to] = line.split(' ')[0].split('-').map((hex) => Number.parseInt(hex, 16));
      return from <= address && address < to;
    });
    const make = () => {
      const buffer = new StorageBufferPool(2 << 20).take(4096);
      buffer.fill(1);
      return buffer;
    };
    let buffer = make();
    const address = addressOf(buffer);
    for (let turn = 0; turn < 5; turn++) { gc(); await setTimeout(1); }
    const held = mapped(address) && buffer[4095] === 1;
    buffer = undefined;
    addressOf(mapMemory(4096)); // the address that was asked for last is remembered
    let gone = false;
    for (let turn = 0; turn < 200 && !gone; turn++) { gc(); await setTimeout(1); gone = !mapped(address); }
    console.log(JSON.stringify({ held, gone }));
  `;
  const args = ['--expose-gc', '--input-type=module', '--eval', program];
  const output = execFileSync(process.execPath, args, { encoding: 'utf8', timeout: 30_000 });
  expect(JSON.parse(output)).toEqual({ held: true, gone: true });
});
