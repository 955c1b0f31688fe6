/** Opens the file of a disk, and chooses what carries its requests. */
import { close } from 'node:fs';
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocateOnThread } from '../ffi/fallocate.ts';
import { SystemError } from '../ffi/system-error.ts';
import { type BackingFile, openBackingFile } from './backing-file.ts';
import type { BlockStorage } from './block-storage.ts';
import { FileStorage } from './file-storage.ts';
import { IoUringEngine } from './io-uring-engine.ts';
import { NOTHING_AT_ONCE, ResidentIo } from './resident-io.ts';
import type { EngineListener, StorageEngine } from './storage-engine.ts';
import { ThreadPoolEngine } from './thread-pool-engine.ts';

export interface StorageOptions {
  readonly readOnly: boolean;
  /** Told how requests are carried, and what the host does not have. Default: standard error. */
  readonly log?: (message: string) => void;
  /** Default: io_uring where it is to be had, else threads. Named, it is that one or an error. */
  readonly engine?: 'io_uring' | 'threads';
  /** Whether what is in memory is done inside `kick` (resident-io.ts). Default: yes; else all goes by the engine. */
  readonly atOnce?: boolean;
}

/**
 * Opens a raw image or a block device, locked as QEMU locks it: a writer alone, readers together.
 * @throws Error that names the file, what was expected, what was got, and what to do
 */
export async function openStorage(path: string, options: StorageOptions): Promise<BlockStorage> {
  const log = options.log ?? ((message: string) => console.error(message));
  const file = await openBackingFile(path, { readOnly: options.readOnly, log });
  try {
    const discards = await canDiscard(file);
    const resident = options.atOnce === false ? undefined : new ResidentIo(file);
    let name = '';
    const storage = new FileStorage(file, resident, discards, (listener) => {
      const engine = chooseEngine(file, options.engine, listener, log);
      name = engine.name;
      return engine;
    });
    log(
      `disk ${path}: ${file.bytes} bytes by ${name}, ${resident?.description ?? NOTHING_AT_ONCE}`,
    );
    return storage;
  } catch (error) {
    await new Promise<void>((resolve) => close(file.fd, () => resolve()));
    throw error;
  }
}

function chooseEngine(
  file: BackingFile,
  wanted: StorageOptions['engine'],
  listener: EngineListener,
  log: (message: string) => void,
): StorageEngine {
  if (wanted !== 'threads') {
    try {
      return new IoUringEngine(file.fd, listener);
    } catch (error) {
      if (wanted === 'io_uring' || !(error instanceof SystemError)) throw error;
      log(`disk ${file.path}: no io_uring on this host (${error.message}); threads do its work`);
    }
  }
  return new ThreadPoolEngine(file.fd, listener);
}

/** Asks by a hole behind the end of the file, which changes nothing. A block device shows it when asked. */
async function canDiscard(file: BackingFile): Promise<boolean> {
  if (file.readOnly || file.blockDevice) return !file.readOnly;
  const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const result = await new Promise<number>((resolve) =>
    fallocateOnThread(file.fd, mode, file.bytes, 4096, resolve),
  );
  return result === 0;
}
