/**
 * One set-up at a time on a cache: flock(2) on a file that stays. The kernel drops the lock with
 * the holder's last descriptor, so one that was killed holds up nobody, and no stale file needs
 * to be judged.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { declared, SystemError } from '../ffi/libc.ts';
import { SetupError } from './setup-error.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;
const flockNative = declared('int flock(int fd, int operation)');

const poll_ms = 100;

export interface LockOptions {
  readonly signal?: AbortSignal;
  /** Called once where another process holds the lock; its pid, where it could write it. */
  readonly onWait?: (holder: number | undefined) => void;
  /** How long to wait for the other. */
  readonly timeout_ms?: number;
}

/**
 * Waits for the lock. Dispose of the result to let it go.
 * @throws SetupError after the time limit; the signal's reason where aborted; SystemError
 */
export async function lockFile(path: string, options: LockOptions = {}): Promise<Disposable> {
  const fd = openSync(path, 'a+', 0o600); // Node opens with O_CLOEXEC: no child keeps the lock
  try {
    const until_ms = performance.now() + (options.timeout_ms ?? 30 * 60_000);
    for (let waited = false; !tryLock(fd); waited = true) {
      if (!waited) options.onWait?.(holderOf(path));
      if (performance.now() > until_ms) {
        throw new SetupError({
          expected: `the lock ${path} within its time limit`,
          got: `a lock still held by process ${holderOf(path) ?? '(unknown)'}`,
          remedy: 'End that process, then run it again.',
        });
      }
      await sleep(poll_ms, undefined, options.signal ? { signal: options.signal } : {});
    }
    ftruncateSync(fd, 0);
    writeSync(fd, `${process.pid}\n`);
  } catch (error) {
    closeSync(fd);
    if (options.signal?.aborted) throw options.signal.reason;
    throw error;
  }
  let held = true;
  return {
    [Symbol.dispose]() {
      if (held) closeSync(fd);
      held = false;
    },
  };
}

function tryLock(fd: number): boolean {
  if (flockNative()(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const error = new SystemError('flock', koffi.errno());
  if (error.code === 'EWOULDBLOCK' || error.code === 'EAGAIN' || error.code === 'EINTR') {
    return false;
  }
  throw error;
}

function holderOf(path: string): number | undefined {
  const pid = Number.parseInt(readFileSync(path, 'utf8'), 10);
  return Number.isSafeInteger(pid) ? pid : undefined;
}
