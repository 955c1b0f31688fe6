/** A disk with Debian trixie that SeaBIOS and UEFI boot, in a raw, sparse file. */
import { type FileHandle, mkdtemp, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { CommandError, runCommand } from '../setup/command.ts';
import { DebianArchive } from '../setup/debian-archive.ts';
import { grubPart } from '../setup/grub.ts';
import { ensurePrograms } from '../setup/install-programs.ts';
import { ensureOptionalPart } from '../setup/optional-part.ts';
import type { GrubPart } from '../setup/parts.ts';
import type { SetupProgress } from '../setup/progress.ts';
import { saysDiskFull } from '../setup/setup-error.ts';
import { biosBootPieces, grubConfiguration } from './boot-loader.ts';
import {
  type Archive,
  checkPackageNames,
  type DebianRoot,
  inNamespace,
  makeDebianRoot,
} from './debian-root.ts';
import { type DiskLayout, diskLayout, sectorBytes, sfdiskScript } from './disk-layout.ts';
import { makeEfiSystem } from './efi-system.ts';
import { ImageError, noRoom } from './image-error.ts';

export interface DebianImageOptions {
  /** The file to make; its directory is there. */
  readonly file: string;
  /** Replace the file where it is there already. */
  readonly replace?: boolean;
  /** Of the disk, in whole MiB. 4 GiB where not given. */
  readonly bytes?: number;
  /** `debian` where not given. */
  readonly hostname?: string;
  /** More packages of trixie. */
  readonly packages?: readonly string[];
  /** root's; without one, root logs in without being asked. */
  readonly rootPassword?: string;
  /** What is being done, in a few words. */
  readonly onPhase?: (words: string) => void;
  /** Of set-up, where a part or a program is missing. */
  readonly progress?: SetupProgress;
  readonly signal: AbortSignal;
}

export interface DebianImage {
  /** Absolute. */
  readonly file: string;
  /** Size of the disk. */
  readonly bytes: number;
  /** What the file takes of the host's disk. */
  readonly allocatedBytes: number;
  readonly hostname: string;
  readonly kernelRelease: string;
  /** PARTUUID of the root partition. */
  readonly rootId: string;
}

export const diskBytesDefault = 4 * 2 ** 30;

const programs = ['mmdebstrap', 'sfdisk', 'mkfs.fat', 'mcopy', 'mke2fs'];
/** RFC 1123 §2.1, one label. */
const hostnamePattern = /^(?!-)[a-z0-9-]{1,63}(?<!-)$/i;

/**
 * Makes the image. The file appears when it is whole, and not at all otherwise.
 * @throws ImageError, SetupError with what to do; the signal's reason
 */
export async function makeDebianImage(options: DebianImageOptions): Promise<DebianImage> {
  const { signal, onPhase = () => {}, progress = () => {}, hostname = 'debian' } = options;
  signal.throwIfAborted();
  const file = resolve(options.file);
  const layout = diskLayout(options.bytes ?? diskBytesDefault);
  if (!hostnamePattern.test(hostname)) {
    throw new ImageError(`expected a host name of letters, digits and -, got '${hostname}'`);
  }
  checkPackageNames(options.packages ?? []);
  checkPassword(options.rootPassword);
  await checkPlace(file, options.replace === true);
  const unprivileged = process.geteuid?.() === 0 ? [] : ['newuidmap'];
  const needed = [...programs, ...unprivileged];
  await ensurePrograms(needed, 'what images are made with', { progress, signal });
  const grub = await ensureOptionalPart(grubPart, { progress, signal });

  onPhase('checking the archive');
  const archive = await checkedArchive(progress, signal);
  const root = await makeDebianRoot({
    archive,
    hostname,
    rootId: layout.rootId,
    grubConfiguration: grubConfiguration(layout),
    rootPassword: options.rootPassword ?? '',
    packages: options.packages ?? [],
    onPhase,
    signal,
  });
  try {
    onPhase('writing the disk');
    const allocatedBytes = await writeDisk(file, layout, grub, root, signal);
    const { kernelRelease } = root;
    const bytes = layout.sectors * sectorBytes;
    return { file, bytes, allocatedBytes, hostname, kernelRelease, rootId: layout.rootId };
  } finally {
    await root[Symbol.asyncDispose]();
  }
}

/** The archive that the host's APT configuration names, once its release was verified; with the keys. */
async function checkedArchive(progress: SetupProgress, signal: AbortSignal): Promise<Archive> {
  const directory = await mkdtemp(join(tmpdir(), 'sealbus-image-archive-'));
  try {
    const suites = ['trixie'];
    const { address, keyring } = await DebianArchive.open({ directory, suites, progress, signal });
    return { address, keys: await readFile(keyring) };
  } catch (error) {
    throw saysDiskFull(error) ? noRoom(tmpdir()) : error;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** @returns what the file takes of the host's disk, in bytes */
async function writeDisk(
  file: string,
  layout: DiskLayout,
  grub: GrubPart,
  root: DebianRoot,
  signal: AbortSignal,
): Promise<number> {
  // For the owner alone, since root of the namespace, who is somebody else, may write the file in it.
  const place = await mkdtemp(join(dirname(file), `.${basename(file)}-`));
  try {
    const path = join(place, 'disk');
    const disk = await open(path, 'wx+', 0o600);
    try {
      await disk.truncate(layout.sectors * sectorBytes);
      await runCommand('sfdisk', ['--quiet', '--no-reread', '--no-tell-kernel', path], {
        input: sfdiskScript(layout),
        timeout_ms: 60_000,
        signal,
      });
      for (const { offset, bytes } of biosBootPieces(layout, grub)) {
        await disk.write(bytes, 0, bytes.length, offset);
      }
      await makeEfiSystem(disk, layout.efiSystem, grub.efiImage, place, signal);
      await makeRootFileSystem(disk, layout, root, signal);
      await disk.chmod(0o600);
      await disk.sync();
      const { blocks } = await disk.stat();
      signal.throwIfAborted();
      await rename(path, file);
      return blocks * 512;
    } finally {
      await disk.close();
    }
  } catch (error) {
    throw explained(error, dirname(file));
  } finally {
    await rm(place, { recursive: true, force: true });
  }
}

function explained(error: unknown, directory: string): unknown {
  // The order tells whose disk is full: within the image mke2fs says so in words of its own.
  if (error instanceof CommandError && /Could not allocate/.test(error.output)) {
    return new ImageError('expected the system to fit its disk, got more: give a larger --size');
  }
  return saysDiskFull(error) ? noRoom(directory) : error;
}

/** In place, from the directory: no file system of the image is ever mounted. */
async function makeRootFileSystem(
  disk: FileHandle,
  { root: { start, sectors } }: DiskLayout,
  root: DebianRoot,
  signal: AbortSignal,
): Promise<void> {
  // Reached by its descriptor: the namespace's root cannot pass the directory that it is in.
  await disk.chmod(0o666);
  const extended = [
    `offset=${start * sectorBytes}`,
    // The file is one hole; without them the kernel would write the tables after the first mount.
    ...['nodiscard', 'lazy_itable_init=0', 'lazy_journal_init=0', 'root_owner=0:0'],
  ];
  // GRUB reads neither, in versions that are about.
  const features = '^metadata_csum_seed,^orphan_file';
  const args = ['-q', '-F', '-t', 'ext4', '-L', 'root', '-O', features, '-E', extended.join(',')];
  const target = ['/proc/self/fd/4', `${Math.floor((sectors * sectorBytes) / 1024)}k`];
  await inNamespace(['mke2fs', ...args, '-d', root.path, ...target], {
    timeout_ms: 15 * 60_000,
    passes: [disk.fd],
    signal,
  });
}

async function checkPlace(file: string, replace: boolean): Promise<void> {
  const directory = await stat(dirname(file)).catch(() => undefined);
  if (!directory?.isDirectory()) {
    throw new ImageError(`expected a directory ${dirname(file)} for the image, got none`);
  }
  const there = await stat(file).catch(() => undefined);
  if (there === undefined) return;
  if (!there.isFile()) {
    throw new ImageError(`expected to make a file ${file}, got something else of that name`);
  }
  if (!replace) {
    throw new ImageError(`expected no file ${file} yet, got one. Remove it, or say --force`);
  }
}

function checkPassword(password: string | undefined): void {
  if (password === undefined) return;
  if (password === '' || /[\0\n\r]/.test(password)) {
    throw new ImageError(
      'expected a password of one line, not empty and without CR or NUL, got another',
    );
  }
}
