import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { StorageError } from '../../../src/storage/block-storage.ts';
import { mapMemory, StorageBufferPool } from '../../../src/storage/storage-buffers.ts';
import { ENGINES, image, open, PLACES, run, scratch, submitted } from './disk.ts';

/** More than two of the longest that is done at once, and than one piece of zeros. */
const BYTES = 512 * 1024;
/** What a disk holds at first: no page like another. */
const PATTERN = new Uint8Array(BYTES).map((_, index) => (index * 7 + (index >> 9)) & 0xff);
const SECTOR = 512;
const pool = new StorageBufferPool(32 << 20);

function taken(length: number): Uint8Array {
  const buffer = pool.take(length);
  if (buffer === undefined) throw new Error('the pool of this test is used up');
  return buffer;
}

const range = fc
  .record({
    sector: fc.integer({ min: 0, max: BYTES / SECTOR - 1 }),
    sectors: fc.oneof(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: 1024 })),
  })
  .map(({ sector, sectors }) => ({
    offset: sector * SECTOR,
    length: Math.min(sectors * SECTOR, BYTES - sector * SECTOR),
  }));
const request = fc.record({
  kind: fc.constantFrom('read', 'write', 'write-zeroes', 'discard', 'flush'),
  range,
  value: fc.integer({ min: 1, max: 255 }),
  durable: fc.boolean(),
  /** Whether those before it are waited for; else it goes in beside them. */
  alone: fc.boolean(),
});

const WAYS = PLACES.flatMap((place) =>
  ENGINES.flatMap((engine) => [true, false].map((atOnce) => ({ place, engine, atOnce }))),
);

describe.each(WAYS)(
  'by $engine on $place, at once where it can be: $atOnce',
  ({ place, engine, atOnce }) => {
    test('any requests leave the bytes that a plain array has after them', {
      timeout: 60_000,
    }, async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(request, { maxLength: 40 }), async (requests) => {
          using directory = scratch(place);
          const path = image(directory.path, BYTES);
          const model = PATTERN.slice();
          writeFileSync(path, model);
          const storage = await open(path, { engine, atOnce });
          let batch: { ended: Promise<StorageError | undefined>; check: () => void }[] = [];
          let busy: { offset: number; end: number; changes: boolean }[] = [];
          const settle = async () => {
            storage.kick();
            for (const { ended, check } of batch) {
              expect(await ended).toBeUndefined();
              check();
            }
            batch = [];
            busy = [];
          };
          for (const { kind, range: at, value, durable, alone } of requests) {
            const { offset } = at;
            const length = kind === 'flush' ? 0 : at.length;
            const changes = kind !== 'read' && kind !== 'flush';
            // Requests under way have no order among them: none may meet a change of the same bytes.
            const meets = busy.some(
              (other) =>
                (changes || other.changes) && other.offset < offset + length && offset < other.end,
            );
            if (alone || meets) await settle();
            busy.push({ offset, end: offset + length, changes });
            const moves = kind === 'read' || kind === 'write';
            const buffer = moves ? taken(length) : undefined;
            const bytes = buffer?.subarray(0, length);
            if (kind === 'write') {
              bytes?.fill(value);
              model.fill(value, offset, offset + length);
            } else if (kind === 'write-zeroes' || (kind === 'discard' && storage.discards)) {
              model.fill(0, offset, offset + length);
            }
            const expected = kind === 'read' ? model.slice(offset, offset + length) : undefined;
            const ended = submitted(storage, {
              kind: kind as 'read',
              offset: kind === 'flush' ? 0 : offset,
              length,
              bytes,
              durable,
            });
            batch.push({
              ended,
              check: () => {
                if (expected !== undefined) {
                  expect(Buffer.compare(bytes as Uint8Array, expected)).toBe(0);
                }
                if (buffer !== undefined) pool.give(buffer);
              },
            });
          }
          await settle();
          await storage.close();
          expect(Buffer.compare(readFileSync(path), model)).toBe(0);
          expect(pool.taken).toBe(0);
        }),
        { numRuns: 15 },
      );
    });

    test('more requests than there are places: all end, and none is lost', async () => {
      using directory = scratch(place);
      const storage = await open(image(directory.path, 4 << 20), { engine, atOnce });
      const count = 1000;
      const buffers = Array.from({ length: count }, () => taken(4096));
      const writes = buffers.map((buffer, index) => {
        new Uint32Array(buffer.buffer, buffer.byteOffset, 1024).fill(index + 1);
        return submitted(storage, { kind: 'write', offset: index * 4096, bytes: buffer });
      });
      storage.kick();
      expect((await Promise.all(writes)).every((error) => error === undefined)).toBe(true);
      for (const buffer of buffers) buffer.fill(0);
      const reads = buffers.map((buffer, index) =>
        submitted(storage, { kind: 'read', offset: index * 4096, bytes: buffer }),
      );
      storage.kick();
      expect((await Promise.all(reads)).every((error) => error === undefined)).toBe(true);
      for (const [index, buffer] of buffers.entries()) {
        expect(
          new Uint32Array(buffer.buffer, buffer.byteOffset, 1024).every((v) => v === index + 1),
        ).toBe(true);
        pool.give(buffer);
      }
      await storage.close();
    });

    test('a file that became shorter fails the read behind its end, and no other', async () => {
      using directory = scratch(place);
      const path = image(directory.path, 64 * 4096);
      const storage = await open(path, { engine, atOnce });
      truncateSync(path, 4096 + 512);
      const buffer = taken(8192);
      await expect(run(storage, { kind: 'read', offset: 8192, bytes: buffer })).rejects.toThrow(
        /disk .*disk\.img: expected read of 8192 bytes at offset 8192 .*become shorter/,
      );
      await expect(run(storage, { kind: 'read', offset: 0, bytes: buffer })).rejects.toThrow(
        'failed at 4608',
      );
      await run(storage, { kind: 'read', offset: 0, bytes: buffer.subarray(0, 4096) });
      pool.give(buffer);
      await storage.close();
    });

    test('done() that submits and kicks again goes on to the end, without growing the stack', async () => {
      using directory = scratch(place);
      const storage = await open(image(directory.path, BYTES), { engine, atOnce });
      const buffer = taken(4096);
      let left = atOnce ? 20_000 : 1000;
      await new Promise<void>((resolve) => {
        const again = {
          kind: 'read' as const,
          offset: 0,
          length: 4096,
          bytes: buffer,
          durable: false,
          done(error: StorageError | undefined) {
            expect(error).toBeUndefined();
            if (--left === 0) return resolve();
            storage.submit(again);
            storage.kick();
          },
        };
        storage.submit(again);
        storage.kick();
      });
      pool.give(buffer);
      await storage.close();
    });

    test('a done() that throws ends neither the process nor another request', async () => {
      using directory = scratch(place);
      const storage = await open(image(directory.path, BYTES), { engine, atOnce });
      const warnings: string[] = [];
      const onWarning = (warning: Error) => warnings.push(warning.message);
      process.on('warning', onWarning);
      const buffer = taken(4096);
      const ends = Array.from({ length: 3 }, (_, n) => {
        const done = () => {
          throw new Error(`done ${n} is broken`);
        };
        const bytes = n === 1 ? undefined : buffer;
        const kind = n === 1 ? 'flush' : 'read';
        const length = bytes?.length ?? 0;
        storage.submit({ kind, offset: 0, length, bytes, durable: false, done });
        return submitted(storage, { kind: 'read', bytes: buffer });
      });
      storage.kick();
      expect(await Promise.all(ends)).toEqual([undefined, undefined, undefined]);
      await storage.close();
      await new Promise((resolve) => setImmediate(resolve));
      process.off('warning', onWarning);
      expect(warnings.sort()).toEqual([0, 1, 2].map((n) => `done ${n} is broken`));
      pool.give(buffer);
    });

    test('the event loop has its turns while requests beget requests', async () => {
      using directory = scratch(place);
      const storage = await open(image(directory.path, BYTES), { engine, atOnce });
      const buffer = taken(4096);
      await run(storage, { kind: 'write', bytes: buffer });
      let stop = false;
      const ended = new Promise<void>((resolve) => {
        const again = {
          kind: 'read' as const,
          offset: 0,
          length: 4096,
          bytes: buffer,
          durable: false,
          done: () => (stop ? resolve() : storage.submit(again)),
        };
        storage.submit(again);
        storage.kick();
      });
      await new Promise((resolve) => setTimeout(resolve, 5));
      stop = true;
      await ended;
      pool.give(buffer);
      await storage.close();
    });

    // Only that: what the engine does may be over before kick() returns, if its thread is quick.
    test.runIf(atOnce)('what is in memory ends inside kick(), before all else', async (context) => {
      using directory = scratch(place);
      const told: string[] = [];
      const log = (message: string) => told.push(message);
      const storage = await open(image(directory.path, BYTES), { engine, log });
      const buffer = taken(BYTES);
      await run(storage, { kind: 'write', bytes: buffer });
      const ended: string[] = [];
      const submit = (kind: 'read' | 'write-zeroes', length: number, name: string) => {
        const bytes = kind === 'read' ? buffer.subarray(0, length) : undefined;
        const done = () => ended.push(name);
        // Elsewhere than what is read: an engine that is quick would take that out of memory.
        const offset = kind === 'read' ? 0 : BYTES / 2;
        storage.submit({ kind, offset, length, bytes, durable: false, done });
      };
      submit('write-zeroes', 4096, 'zeroes');
      submit('read', BYTES, 'long');
      submit('read', 4096, 'short');
      storage.kick();
      const first = ended[0];
      await storage.close();
      pool.give(buffer);
      expect(ended.toSorted()).toEqual(['long', 'short', 'zeroes']);
      if (`${told}`.includes('none of it at once')) context.skip('this host answers none at once');
      expect(first).toBe('short');
    });

    test('close waits for all that was submitted, and what comes later is told so', async () => {
      using directory = scratch(place);
      const path = image(directory.path, BYTES);
      const storage = await open(path, { engine, atOnce });
      const buffer = taken(BYTES);
      buffer.fill(0x5a);
      const order: string[] = [];
      let late: Promise<StorageError | undefined> | undefined;
      storage.submit({
        kind: 'write',
        offset: 0,
        length: BYTES,
        bytes: buffer.subarray(0, BYTES),
        durable: false,
        done(error) {
          expect(error).toBeUndefined();
          order.push('written');
          late = submitted(storage, { kind: 'flush' });
          storage.kick();
        },
      });
      const closed = storage.close().then(() => order.push('closed'));
      expect(storage.close()).toBe(storage.close());
      await closed;
      expect(order).toEqual(['written', 'closed']);
      expect((await late)?.message).toContain(
        'expected an open disk to flush, got one that is closed',
      );
      expect(readFileSync(path).every((byte) => byte === 0x5a)).toBe(true);
      storage.kick();
      pool.give(buffer);
      // The lock and the descriptor are given back.
      await (await open(path, { engine, atOnce })).close();
    });

    test('a read-only disk reads and flushes, and refuses all else', async () => {
      using directory = scratch(place);
      const path = image(directory.path, 8192);
      writeFileSync(path, Buffer.alloc(8192, 0x33));
      const storage = await open(path, { engine, atOnce, readOnly: true });
      expect(storage).toMatchObject({ path, bytes: 8192, readOnly: true, discards: false });
      const buffer = taken(4096);
      await run(storage, { kind: 'read', offset: 4096, bytes: buffer });
      expect(buffer.every((byte) => byte === 0x33)).toBe(true);
      await run(storage, { kind: 'flush' });
      for (const kind of ['write', 'write-zeroes', 'discard'] as const) {
        expect(() =>
          storage.submit({
            kind,
            offset: 0,
            length: 4096,
            bytes: buffer,
            durable: false,
            done() {},
          }),
        ).toThrow(RangeError);
      }
      pool.give(buffer);
      await storage.close();
    });

    test('a range that leaves the disk, or bytes that are not of its length, are refused at once', async () => {
      using directory = scratch(place);
      const storage = await open(image(directory.path, 8192), { engine, atOnce });
      const done = () => {
        throw new Error('expected no end of a request that was refused');
      };
      const bytes = mapMemory(4096);
      const wrong = [
        { offset: 4608, length: 4096, bytes },
        { offset: 8192, length: 4096, bytes },
        { offset: -512, length: 4096, bytes },
        { offset: 0.5, length: 4096, bytes },
        { offset: 2 ** 53, length: 4096, bytes },
        { offset: Number.NaN, length: 4096, bytes },
        { offset: 0, length: 512, bytes },
        { offset: 0, length: 4096, bytes: undefined },
        { offset: 0, length: 4096, bytes: new Uint8Array(4096) },
      ];
      for (const each of wrong) {
        for (const kind of ['read', 'write'] as const) {
          expect(() => storage.submit({ kind, durable: false, done, ...each })).toThrow(RangeError);
        }
      }
      storage.kick();
      await storage.close();
    });

    test('discard gives room back, write-zeroes keeps the size', async () => {
      using directory = scratch(place);
      const path = image(directory.path, BYTES);
      writeFileSync(path, Buffer.alloc(BYTES, 1));
      const storage = await open(path, { engine, atOnce });
      expect(storage.discards).toBe(true);
      await run(storage, { kind: 'flush' });
      const before = blocks(path);
      await run(storage, { kind: 'discard', offset: 0, length: BYTES / 2 });
      expect(blocks(path)).toBeLessThan(before);
      await run(storage, { kind: 'write-zeroes', offset: BYTES - 512, length: 512, durable: true });
      await storage.close();
      const after = readFileSync(path);
      expect(after.length).toBe(BYTES);
      expect(after.subarray(0, BYTES / 2).every((byte) => byte === 0)).toBe(true);
      expect(after.subarray(BYTES / 2, BYTES - 512).every((byte) => byte === 1)).toBe(true);
      expect(after.subarray(BYTES - 512).every((byte) => byte === 0)).toBe(true);
    });
  },
);

function blocks(path: string): number {
  return statSync(path).blocks;
}

test('more than may wait is refused, and what waits is done all the same', async () => {
  using directory = scratch('/dev/shm');
  const storage = await open(image(directory.path, 8192));
  let ended = 0;
  const done = () => {
    ended++;
  };
  const flush = {
    kind: 'flush',
    offset: 0,
    length: 0,
    bytes: undefined,
    durable: false,
    done,
  } as const;
  for (let count = 0; count < 16_384; count++) storage.submit(flush);
  expect(() => storage.submit(flush)).toThrow('expected at most 16384 requests that wait');
  await storage.close();
  expect(ended).toBe(16_384);
});
