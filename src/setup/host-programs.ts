/** Programs of the host that set-up calls: where they are, and which package brings them. */
import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';

/** Debian's package for each program that a minimal system may lack. */
export const packageOf: Readonly<Record<string, readonly string[]>> = {
  gcc: ['gcc', 'libc6-dev'],
  'libc headers': ['libc6-dev'],
  make: ['make'],
  xz: ['xz-utils'],
  'apt-get': ['apt'],
  'dpkg-deb': ['dpkg'],
  setpriv: ['util-linux'],
  fusermount3: ['fuse3'],
  mmdebstrap: ['mmdebstrap'],
  mke2fs: ['e2fsprogs'],
  e2fsck: ['e2fsprogs'],
  sfdisk: ['fdisk'],
  'mkfs.fat': ['dosfstools'],
  mcopy: ['mtools'],
  newuidmap: ['uidmap'],
};

/** A file that every program in C needs; gcc may come without it where recommended packages are off. */
export const libcHeader = '/usr/include/features.h';

export const neededPrograms = [
  ...['apt-get', 'apt-cache', 'dpkg-deb', 'tar', 'xz'],
  ...['gcc', 'libc headers', 'make'],
] as const;

/** Whether the host has it; `name` is one that `packageOf` knows. */
export function isThere(name: string): boolean {
  return name === 'libc headers' ? existsSync(libcHeader) : findProgram(name) !== undefined;
}

/** @returns the absolute path of the first executable file of that name on PATH. */
export function findProgram(name: string, path = process.env.PATH ?? ''): string | undefined {
  // Not every account has the system's own directories on its PATH.
  const directories = [...path.split(delimiter), '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
  for (const directory of directories) {
    if (!isAbsolute(directory)) continue;
    const candidate = join(directory, name);
    try {
      accessSync(candidate, constants.X_OK);
      if (statSync(candidate).isFile()) return candidate;
    } catch {
      // not here
    }
  }
  return undefined;
}

/** @returns the command that installs what brings these programs. */
export function installCommand(programs: readonly string[]): string {
  const packages = programs.flatMap((program) => packageOf[program] ?? [program]);
  return `apt-get install --no-install-recommends ${[...new Set(packages)].join(' ')}`;
}
