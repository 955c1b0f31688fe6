/** The file behind a disk: opened, checked, locked. */
import { close, constants, fstat, open, type Stats, stat, statfs } from 'node:fs';
import { promisify } from 'node:util';
import { blockDeviceBytes } from '../ffi/block-device.ts';
import { SystemError } from '../ffi/system-error.ts';
import { lockImage } from './image-lock.ts';

const SECTOR_BYTES = 512;
const TMPFS_MAGIC = 0x0102_1994;

const statFile = promisify(stat);
const statFileSystem = promisify(statfs);
const openFile = promisify(open);
const statOpen = promisify(fstat);
const closeFile = promisify(close);

export interface BackingFile {
  readonly path: string;
  readonly fd: number;
  readonly bytes: number;
  readonly readOnly: boolean;
  readonly blockDevice: boolean;
  /** Whether its bytes are in memory and nowhere else, unless they are swapped. */
  readonly tmpfs: boolean;
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return 'a directory';
  if (stats.isCharacterDevice()) return 'a character device';
  if (stats.isFIFO()) return 'a named pipe';
  if (stats.isSocket()) return 'a socket';
  return 'no file of bytes';
}

function refusal(path: string, error: unknown, readOnly: boolean): Error {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const reasons: Record<string, string> = {
    ENOENT: 'no such file; make it first, for instance with truncate -s 1G',
    ENOTDIR: 'a path that leads through something that is no directory',
    EACCES: `no permission; change its mode or owner${readOnly ? '' : ', or give it read-only'}`,
    EPERM: `no permission; change its mode or owner${readOnly ? '' : ', or give it read-only'}`,
    EROFS: 'a read-only file system; give it read-only',
    ETXTBSY: 'a program that is running; copy it first',
  };
  const known = typeof code === 'string' ? reasons[code] : undefined;
  const got = known ?? (error instanceof Error ? error.message : String(error));
  const wanted = readOnly ? 'read' : 'read and write';
  return new Error(`disk ${path}: expected a raw image to ${wanted}, got ${got}`, { cause: error });
}

/**
 * Opens and locks a raw image or a block device, close-on-exec.
 * @throws Error that names the file, what was expected, what was got, and what to do
 */
export async function openBackingFile(
  path: string,
  options: { readonly readOnly: boolean; readonly log: (message: string) => void },
): Promise<BackingFile> {
  const { readOnly, log } = options;
  let fd: number;
  try {
    // Asked first, since opening a named pipe would wait for its other end.
    checkKind(path, await statFile(path));
    fd = await openFile(path, readOnly ? constants.O_RDONLY : constants.O_RDWR);
  } catch (error) {
    if (error instanceof WrongKind) throw error;
    throw refusal(path, error, readOnly);
  }
  try {
    const stats = await statOpen(fd);
    checkKind(path, stats);
    lock(path, fd, readOnly, log);
    // Under the lock: nobody who keeps to it changes the size from here on.
    const blockDevice = stats.isBlockDevice();
    const bytes = blockDevice ? blockDeviceBytes(fd) : (await statOpen(fd)).size;
    checkSize(path, bytes);
    const tmpfs =
      !blockDevice && (await statFileSystem(`/proc/self/fd/${fd}`)).type === TMPFS_MAGIC;
    return { path, fd, bytes, readOnly, blockDevice, tmpfs };
  } catch (error) {
    await closeFile(fd);
    throw error;
  }
}

class WrongKind extends Error {}

function checkKind(path: string, stats: Stats): void {
  if (stats.isFile() || stats.isBlockDevice()) return;
  throw new WrongKind(
    `disk ${path}: expected a raw image file or a block device, got ${kindOf(stats)}; give the path of a disk`,
  );
}

function checkSize(path: string, bytes: number): void {
  if (bytes > 0 && bytes % SECTOR_BYTES === 0) return;
  const got = bytes === 0 ? 'an empty one' : `one of ${bytes} bytes`;
  const todo =
    bytes === 0
      ? 'give it a size, for instance with truncate -s 1G'
      : `it is no raw image, or was cut short; pad it with truncate -s %${SECTOR_BYTES} if its bytes are right`;
  throw new Error(
    `disk ${path}: expected a raw image of a multiple of ${SECTOR_BYTES} bytes, got ${got}; ${todo}`,
  );
}

function lock(path: string, fd: number, readOnly: boolean, log: (message: string) => void): void {
  let ours: boolean;
  try {
    ours = lockImage(fd, readOnly);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    log(
      `disk ${path}: its file system has no locks (${error.code}); nothing keeps others from writing it`,
    );
    return;
  }
  if (ours) return;
  const expected = readOnly ? 'that nobody writes' : 'that nobody else has open';
  const todo = readOnly
    ? 'end the QEMU or sealbus that writes it'
    : 'end the QEMU or sealbus that has it, or have both open it read-only';
  throw new Error(`disk ${path}: expected an image ${expected}, got one that is in use; ${todo}`);
}
