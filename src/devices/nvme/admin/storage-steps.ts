import type { BlockStorage, StorageError } from '../../../storage/block-storage.ts';

/**
 * One request without data to a storage, done when the promise resolves.
 *
 * @throws StorageError where the host's file system failed, RangeError where the request was refused.
 */
export function storageStep(
  storage: BlockStorage,
  kind: 'flush' | 'write-zeroes' | 'discard',
  offset = 0,
  length = 0,
): Promise<void> {
  return new Promise((resolve, reject) => {
    storage.submit({
      kind,
      offset,
      length,
      bytes: undefined,
      durable: false,
      done(error: StorageError | undefined) {
        if (error === undefined) resolve();
        else reject(error);
      },
    });
    storage.kick();
  });
}
