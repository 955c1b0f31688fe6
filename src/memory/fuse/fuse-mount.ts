import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MNT_DETACH, MS_NODEV, MS_NOSUID, mount, umount } from '../../ffi/mount.ts';
import { SystemError } from '../../ffi/system-error.ts';
import { FuseUnavailable } from './fuse-unavailable.ts';
import { mountWithFusermount, unmountWithFusermount } from './fusermount.ts';

const FUSE_DEVICE = '/dev/fuse';

export interface FuseMount {
  /** /dev/fuse, non-blocking: closing it ends the file system. */
  readonly fd: number;
  readonly directory: string;
  /** How it was mounted. */
  readonly by: 'mount' | 'fusermount3';
}

/**
 * Mounts a FUSE file system on an empty directory: by mount(2) as root, else through fusermount3.
 * Nothing answers on it until a connection serves `fd`.
 * @throws FuseUnavailable
 */
export async function mountFuse(directory: string): Promise<FuseMount> {
  if (process.getuid?.() !== 0) {
    return { fd: await mountWithFusermount(directory), directory, by: 'fusermount3' };
  }
  const fd = openFuseDevice();
  try {
    const options = `fd=${fd},rootmode=40000,user_id=0,group_id=0`;
    mount('sealbus', directory, 'fuse.sealbus', MS_NOSUID | MS_NODEV, options);
  } catch (error) {
    closeSync(fd);
    throw new FuseUnavailable(
      `expected mount(2) to mount FUSE on ${directory}, got ${describe(error)}: ` +
        'in a container, give it CAP_SYS_ADMIN and /dev/fuse',
    );
  }
  return { fd, directory, by: 'mount' };
}

/** @throws FuseUnavailable where /dev/fuse is missing or not ours to open. */
function openFuseDevice(): number {
  try {
    return openSync(FUSE_DEVICE, constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    throw new FuseUnavailable(
      `expected to open ${FUSE_DEVICE}, got ${describe(error)}: load the module (modprobe fuse) ` +
        'and let this user read and write it',
    );
  }
}

/**
 * Mounts and unmounts, to see whether it can be done: that /dev/fuse opens does not say so.
 * @throws FuseUnavailable with what to do
 */
export async function probeFuse(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-probe-'));
  try {
    unmountFuse(await mountFuse(directory));
  } finally {
    rmdirSync(directory);
  }
}

/**
 * Lets the page cache of the mount hold dirty pages as a CPU cache would: a FUSE mount may otherwise
 * dirty 1 % of memory only, and then stores wait for write-backs. Needs root. May be called by the
 * process that serves the mount: it asks the mount table, not the mount.
 * @returns whether the limits were lifted.
 */
export function liftWriteBackLimits(directory: string): boolean {
  const device = mountInfo(directory)?.[2];
  if (device === undefined) return false;
  const bdi = `/sys/class/bdi/${device}`;
  try {
    writeFileSync(join(bdi, 'max_ratio'), '100');
    writeFileSync(join(bdi, 'strict_limit'), '0');
    return readFileSync(join(bdi, 'max_ratio'), 'utf8').trim() === '100';
  } catch {
    return false;
  }
}

/**
 * Ends a mount. Closing /dev/fuse aborts the connection, so that nothing, not even the flush of
 * dirty pages that an unmount starts, waits for a server that is gone. Whoever still has a file
 * mapped gets SIGBUS on the next miss: users go first.
 */
export function unmountFuse(mounted: FuseMount): void {
  closeSync(mounted.fd);
  detach(mounted.directory);
}

/**
 * Detaches what a killed run left mounted on `directory`. A dead FUSE mount answers ENOTCONN even to
 * stat(2), so it has to go before anything looks at the directory.
 * @returns whether there was one.
 */
export function detachStaleMount(directory: string): boolean {
  if (mountInfo(directory) === undefined) return false;
  detach(directory);
  return true;
}

function detach(directory: string): void {
  if (process.getuid?.() !== 0) {
    unmountWithFusermount(directory);
    return;
  }
  try {
    umount(directory, MNT_DETACH);
  } catch (error) {
    // EINVAL: nothing is mounted there any more, which is what was wanted.
    if (!(error instanceof SystemError && error.code === 'EINVAL')) throw error;
  }
}

/** The fields of /proc/self/mountinfo (proc_pid_mountinfo(5)), which a dead mount cannot block. */
function mountInfo(directory: string): string[] | undefined {
  const escaped = directory.replaceAll(' ', '\\040');
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .findLast((fields) => fields[4] === escaped);
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
