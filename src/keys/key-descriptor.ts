import { fstatSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { peerHasEnded } from '../ffi/libc.ts';
import { bytesWaiting } from '../ffi/unix-socket.ts';

/** How long a key may take to come through a pipe: somebody may have to type what unlocks it. */
export const KEY_WAIT_MS_MAX = 60_000;
const LOOK_AGAIN_MS = 10;

/**
 * Waits until a descriptor has `bytes` bytes of a key, or its other end has ended, without reading any of
 * them: whoever reads them next does not wait. Whether they are a key is the reader's to check.
 * @throws Error where it is no file, pipe or socket, or they do not come within `timeoutMs`
 */
export async function keyIsWaiting(
  fd: number,
  bytes: number,
  timeoutMs = KEY_WAIT_MS_MAX,
): Promise<void> {
  const status = fstatSync(fd);
  if (status.isFile()) return;
  if (!status.isFIFO() && !status.isSocket()) {
    throw new Error(
      'expected the descriptor of a key to be a file, a pipe or a socket, got neither',
    );
  }
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    // In this order: what came before the end is seen with it.
    const ended = peerHasEnded(fd);
    const waiting = bytesWaiting(fd);
    if (waiting >= bytes || ended) return;
    if (performance.now() >= deadline) {
      throw new Error(
        `expected a key of ${bytes} bytes within ${timeoutMs} ms, got ${waiting}: ` +
          'write it to the other end, and close that',
      );
    }
    // Who ends meanwhile does not stay for it.
    await sleep(LOOK_AGAIN_MS, undefined, { ref: false });
  }
}
