/** For tests: a scratch image, and requests as promises. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type {
  BlockStorage,
  StorageError,
  StorageKind,
} from '../../../src/storage/block-storage.ts';
import { openStorage, type StorageOptions } from '../../../src/storage/open-storage.ts';

export const ENGINES = ['io_uring', 'threads'] as const;
/** A file system in memory, and a real one. */
export const PLACES = ['/dev/shm', tmpdir()] as const;

/** A directory of its own, removed at the end of the scope. */
export function scratch(place: string = tmpdir()): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(place, 'sealbus-storage-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

export function image(directory: string, bytes: number, name = 'disk.img'): string {
  const path = join(directory, name);
  writeFileSync(path, '');
  truncateSync(path, bytes);
  return path;
}

export function open(path: string, options: Partial<StorageOptions> = {}): Promise<BlockStorage> {
  return openStorage(path, { readOnly: false, log: () => {}, ...options });
}

export interface Wanted {
  readonly kind: StorageKind;
  readonly offset?: number;
  readonly length?: number;
  readonly bytes?: Uint8Array | undefined;
  readonly durable?: boolean;
}

/** Submits without a kick. @returns the error, or undefined */
export function submitted(
  storage: BlockStorage,
  wanted: Wanted,
): Promise<StorageError | undefined> {
  const { kind, offset = 0, bytes, durable = false } = wanted;
  const length = wanted.length ?? bytes?.length ?? 0;
  return new Promise((done) => {
    storage.submit({ kind, offset, length, bytes, durable, done });
  });
}

/** @throws StorageError */
export async function run(storage: BlockStorage, wanted: Wanted): Promise<void> {
  const ended = submitted(storage, wanted);
  storage.kick();
  const error = await ended;
  if (error !== undefined) throw error;
}
