import type { BlockStorage, StorageError } from '../../storage/block-storage.ts';

/** Flushes the storages; `done` gets what failed. */
export function flushAll(
  storages: readonly BlockStorage[],
  done: (errors: readonly StorageError[]) => void,
): void {
  const errors: StorageError[] = [];
  let left = storages.length;
  const one = (error: StorageError | undefined) => {
    if (error !== undefined) errors.push(error);
    if (--left === 0) done(errors);
  };
  for (const storage of storages) {
    storage.submit({
      kind: 'flush',
      offset: 0,
      length: 0,
      bytes: undefined,
      durable: false,
      done: one,
    });
  }
  for (const storage of storages) storage.kick();
}
