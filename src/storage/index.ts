/** The bytes behind a disk, and the memory that they go to and come from. */
export {
  type BlockStorage,
  type StorageBuffers,
  StorageError,
  type StorageKind,
  type StorageRequest,
} from './block-storage.ts';
export { openStorage, type StorageOptions } from './open-storage.ts';
export { STORAGE_BUFFER_BYTES_MAX, StorageBufferPool } from './storage-buffers.ts';
