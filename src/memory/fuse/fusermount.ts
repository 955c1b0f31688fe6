import { spawn, spawnSync } from 'node:child_process';
import { close } from '../../ffi/libc.ts';
import { socketPair } from '../../ffi/socket-pair.ts';
import { MessageBuffer } from '../../ffi/unix-socket.ts';
import { FuseUnavailable } from './fuse-unavailable.ts';

const PROGRAM = 'fusermount3';
const TIMEOUT_MS = 10_000;

/**
 * Mounts through the setuid helper of libfuse, for callers that are not root: it opens /dev/fuse,
 * mounts, and sends the descriptor over the socket that _FUSE_COMMFD names.
 * @returns /dev/fuse, non-blocking. @throws FuseUnavailable
 */
export async function mountWithFusermount(directory: string): Promise<number> {
  const [ours, theirs] = socketPair();
  try {
    const child = spawn(
      PROGRAM,
      ['-o', 'fsname=sealbus,subtype=sealbus,nosuid,nodev', '--', directory],
      {
        env: { ...process.env, _FUSE_COMMFD: '3' },
        stdio: ['ignore', 'ignore', 'pipe', theirs],
        timeout: TIMEOUT_MS,
      },
    );
    let words = '';
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      words = (words + text).slice(-1000);
    });
    const code = await new Promise<number | string>((resolve) => {
      child.once('error', (error) => resolve(error.message));
      child.once('close', (status, signal) => resolve(status ?? signal ?? 'no status'));
    });
    const fd = code === 0 ? new MessageBuffer(1).receive(ours)?.descriptors[0] : undefined;
    if (fd === undefined) {
      throw new FuseUnavailable(
        `expected ${PROGRAM} to mount FUSE on ${directory}, got ${words.trim() || code}: install it ` +
          '(apt-get install fuse3) and let this user read and write /dev/fuse, or run as root',
      );
    }
    return fd;
  } finally {
    close(ours);
    close(theirs);
  }
}

export function unmountWithFusermount(directory: string): void {
  const { status, error, stderr } = spawnSync(PROGRAM, ['-u', '-z', '--', directory], {
    encoding: 'utf8',
    timeout: TIMEOUT_MS,
  });
  if (status !== 0) {
    throw new FuseUnavailable(
      `expected ${PROGRAM} -u -z to unmount ${directory}, got ${error?.message ?? stderr.trim()}`,
    );
  }
}
