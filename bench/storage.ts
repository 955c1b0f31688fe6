/**
 * What a request costs the process behind a disk: µs of one 4 KiB request at depth 1 and 32, random, on a
 * file in /dev/shm and on one in the page cache of the temporary directory, by each engine, with and
 * without what is done at once (src/storage/resident-io.ts). Beside it pread(2), one at a time and
 * nothing around it: what the copy alone costs here. Interleaved rounds, medians.
 * `node bench/storage.ts [--json]`.
 */
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readWithFlags } from '../src/ffi/page-cache.ts';
import type { BlockStorage, StorageError } from '../src/storage/block-storage.ts';
import { openStorage, type StorageOptions } from '../src/storage/open-storage.ts';
import { addressOf, StorageBufferPool } from '../src/storage/storage-buffers.ts';
import { median } from './figures.ts';

const BLOCK = 4096;
const FILE_BYTES = 256 << 20;
const ROUNDS = 5;
const DEPTHS = [1, 32] as const;
const ROUND_MS = 300;

type Kind = 'read' | 'write';

export interface StorageFigure {
  readonly place: 'shm' | 'disk';
  readonly engine: 'io_uring' | 'threads' | 'pread';
  readonly atOnce: boolean;
  readonly kind: Kind;
  readonly depth: number;
  /** Wall time over requests: at depth 32 they overlap. */
  readonly us: number;
}

const pool = new StorageBufferPool(4 << 20);

function randomOffset(): number {
  return Math.floor((Math.random() * FILE_BYTES) / BLOCK) * BLOCK;
}

/** One round at a depth: each end submits the next, as a driver with a full queue does. @returns µs a request */
function round(storage: BlockStorage, kind: Kind, depth: number): Promise<number> {
  return new Promise((resolve, reject) => {
    let ended = 0;
    let under = depth;
    const start = performance.now();
    const stopAt = start + ROUND_MS;
    for (let place = 0; place < depth; place++) {
      const bytes = pool.take(BLOCK) as Uint8Array;
      const request = {
        ...{ kind, offset: randomOffset(), length: BLOCK, bytes, durable: false },
        done(error: StorageError | undefined) {
          if (error !== undefined) return reject(error);
          ended++;
          if (performance.now() < stopAt) {
            request.offset = randomOffset();
            storage.submit(request);
            storage.kick();
            return;
          }
          pool.give(bytes);
          if (--under === 0) resolve(((performance.now() - start) * 1000) / ended);
        },
      };
      storage.submit(request);
    }
    storage.kick();
  });
}

/** pread(2) in a loop. @returns µs a read */
function preadRound(fd: number): number {
  const bytes = pool.take(BLOCK) as Uint8Array;
  const address = addressOf(bytes) ?? 0;
  const start = performance.now();
  let count = 0;
  for (; performance.now() < start + ROUND_MS; count += 100) {
    for (let each = 0; each < 100; each++) readWithFlags(fd, address, BLOCK, randomOffset(), 0);
  }
  pool.give(bytes);
  return ((performance.now() - start) * 1000) / count;
}

export async function measureStorage(rounds = ROUNDS): Promise<StorageFigure[]> {
  const samples = new Map<string, { figure: Omit<StorageFigure, 'us'>; us: number[] }>();
  const add = (figure: Omit<StorageFigure, 'us'>, us: number) => {
    const key = JSON.stringify(figure);
    const entry = samples.get(key) ?? { figure, us: [] };
    samples.set(key, entry);
    entry.us.push(us);
  };
  const directories = { shm: '/dev/shm', disk: tmpdir() };
  for (const place of ['shm', 'disk'] as const) {
    const directory = mkdtempSync(join(directories[place], 'sealbus-bench-'));
    try {
      const path = join(directory, 'disk.img');
      fill(path);
      for (let turn = 0; turn < rounds; turn++) {
        const fd = openSync(path, 'r');
        const bare = { place, engine: 'pread', atOnce: true, kind: 'read', depth: 1 } as const;
        add(bare, preadRound(fd));
        closeSync(fd);
        for (const engine of ['io_uring', 'threads'] as const) {
          for (const atOnce of [true, false])
            await measureOne(path, { place, engine, atOnce }, add);
        }
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  }
  return [...samples.values()].map(({ figure, us }) => ({ ...figure, us: median(us) }));
}

async function measureOne(
  path: string,
  way: {
    readonly place: 'shm' | 'disk';
    readonly engine: NonNullable<StorageOptions['engine']>;
    readonly atOnce: boolean;
  },
  add: (figure: Omit<StorageFigure, 'us'>, us: number) => void,
): Promise<void> {
  const { engine, atOnce } = way;
  const storage = await openStorage(path, { readOnly: false, engine, atOnce, log: () => {} });
  for (const kind of ['read', 'write'] as const) {
    for (const depth of DEPTHS) {
      add({ ...way, kind, depth }, await round(storage, kind, depth));
    }
  }
  await storage.close();
}

function fill(path: string): void {
  const fd = openSync(path, 'w');
  const piece = Buffer.alloc(1 << 20, 0xa5);
  for (let offset = 0; offset < FILE_BYTES; offset += piece.length) {
    writeSync(fd, piece, 0, piece.length, offset);
  }
  fsyncSync(fd);
  closeSync(fd);
}

if (import.meta.main) {
  const figures = await measureStorage();
  if (process.argv.includes('--json')) console.log(JSON.stringify(figures, undefined, 2));
  else {
    for (const { place, engine, atOnce, kind, depth, us } of figures) {
      const way = `${place} ${engine}${atOnce ? '' : ', nothing at once'}`;
      console.log(
        `${way.padEnd(36)} ${kind.padEnd(5)} depth ${String(depth).padStart(2)}: ${us.toFixed(2)} µs`,
      );
    }
  }
}
