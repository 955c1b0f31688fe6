import { setTimeout as sleep } from 'node:timers/promises';
import { SystemError } from '../ffi/libc.ts';
import { type ClientOptions, VfioUserClient } from '../vfio-user/client/client.ts';

const AGAIN_MS = 10;
/** Nobody listens yet, or the server is not through with the client before us. */
const PASSING = new Set(['ENOENT', 'ECONNREFUSED', 'EAGAIN', 'EBUSY']);

/**
 * Connects, and tries again for `connectMs` where nobody listens there yet.
 * @throws as VfioUserClient.connect, of the last try
 */
export async function connected(
  path: string,
  connectMs: number,
  options: ClientOptions,
): Promise<VfioUserClient> {
  const until = performance.now() + connectMs;
  for (;;) {
    try {
      return await VfioUserClient.connect(path, options);
    } catch (error) {
      const passing = error instanceof SystemError && PASSING.has(error.code);
      if (!passing || performance.now() >= until) throw error;
    }
    await sleep(AGAIN_MS);
  }
}
