/**
 * Takes a RAM file out of the page cache as far as nobody has it mapped. The page cache plays the CPU's cache, so what
 * it has is plaintext, and it stays there until somebody wants the memory; when the keys are gone, nobody should have
 * it any more.
 *
 * - *A page that is mapped stays*, for whoever computes with it, a guest's vCPUs: as long as their QEMU runs.
 *   Taking it away as well would be its end at its next instruction. It goes when that QEMU lets go of the VM's
 *   functions, of which the machine knows (Tenant); of a mapping by somebody without one it does not.
 * - *What is dirty* is to be written back first. With its keys gone the memory controller refuses that, and the kernel
 *   then has the page as clean: what was stored there is lost, as it is anyway.
 * - *Nothing comes back*: a cache fill is refused as a write-back is. Shared pages do, which are nobody's secret.
 * - *DMA* has no part in it: that a page leaves the cache unasked is what the kernel does at any moment, and its
 *   coherence counts cache fills alone (dma-gate.ts).
 * @module
 */
import { type FileHandle, open } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { dropCached } from '../ffi/page-cache.ts';

/** Half a millisecond of the event loop. */
const PIECE_BYTES = 8 * 2 ** 20;

/** What a memory whose keys, file or controller have gone answers. */
const GONE: ReadonlySet<string | undefined> = new Set(['EIO', 'ENOENT', 'ENOTCONN']);

/** @param bytes size of the file. @throws Error where it is there, and can be neither opened nor closed */
export async function dropCache(path: string, bytes: number): Promise<void> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    unlessGone(error);
    return;
  }
  try {
    await file.sync().catch(unlessGone);
    for (let at = 0; at < bytes; at += PIECE_BYTES) {
      dropCached(file.fd, at, Math.min(PIECE_BYTES, bytes - at));
      await nextTurn();
    }
  } finally {
    await file.close().catch(unlessGone);
  }
}

function unlessGone(error: unknown): void {
  if (!GONE.has((error as NodeJS.ErrnoException).code)) throw error;
}
