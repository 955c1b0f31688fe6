/** The guest's initramfs: busybox, the agent as init, our modules and tools. */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { runCommand } from '../setup/command.ts';
import type { Parts } from '../setup/parts.ts';
import { type ArchiveEntry, writeArchive } from './cpio.ts';
import { buildModule, buildProgram, contentKey, guestCache, madeFrom } from './guest-build.ts';

export interface GuestImageOptions {
  /** More files, such as a test's: path without leading slash to content. */
  readonly files?: Readonly<Record<string, { readonly bytes: Uint8Array; readonly mode?: number }>>;
  readonly cache?: string;
}

/** Raised when the layout below changes: it is part of the image's key. */
const layout = 1;

const modules = [{ folder: 'edu', name: 'sealbus_edu' }] as const;
const programs = ['edu/edu-copy.c', 'edu/edu-hammer.c', 'tools/pcimem.c'] as const;

/**
 * Makes the image, or finds it made.
 * @returns the path of an uncompressed archive: the guest's CPU is slower than its memory.
 * @throws VmError, SetupError where something does not build
 */
export async function buildGuestImage(
  parts: Pick<Parts, 'busybox' | 'kernel'>,
  options: GuestImageOptions = {},
): Promise<string> {
  const { cache = guestCache(), files = {} } = options;
  const init = await buildProgram('agent/agent.c', cache);
  const tools = await Promise.all(
    programs.map(async (source) => ({
      path: `bin/${basename(source, '.c')}`,
      file: await buildProgram(source, cache),
    })),
  );
  const drivers = await Promise.all(
    modules.map(async ({ folder, name }) => ({
      path: `lib/modules/${name}.ko`,
      file: await buildModule(folder, name, parts.kernel, cache),
    })),
  );
  // The names of what is built hold the hash of its sources already.
  const extra = Object.entries(files).map(
    ([path, { bytes, mode }]) => `${path} ${mode} ${Buffer.from(bytes).toString('base64')}`,
  );
  const built = [init, ...tools.map(({ file }) => file), ...drivers.map(({ file }) => file)];
  const key = contentKey([parts.busybox.path], [String(layout), ...built, ...extra]);
  const applets = await busyboxApplets(parts.busybox.path);
  return await madeFrom(cache, 'initramfs', key, () =>
    writeArchive([
      ...skeleton,
      { kind: 'file', path: 'init', mode: 0o755, bytes: readFileSync(init) },
      { kind: 'file', path: 'bin/busybox', mode: 0o755, bytes: readFileSync(parts.busybox.path) },
      ...applets.map((name) => link(`bin/${name}`, 'busybox')),
      ...tools.map(({ path, file }) => program(path, file)),
      ...drivers.map(({ path, file }) => program(path, file)),
      ...Object.entries(files).map(([path, { bytes, mode = 0o644 }]): ArchiveEntry => {
        return { kind: 'file', path, mode, bytes };
      }),
    ]),
  );
}

const text = (path: string, content: string): ArchiveEntry => {
  return { kind: 'file', path, bytes: Buffer.from(content) };
};
const link = (path: string, target: string): ArchiveEntry => ({ kind: 'symlink', path, target });
const program = (path: string, file: string): ArchiveEntry => {
  return { kind: 'file', path, mode: 0o755, bytes: readFileSync(file) };
};

/** The kernel opens /dev/console before init has mounted anything. */
const skeleton: readonly ArchiveEntry[] = [
  { kind: 'directory', path: 'dev' },
  { kind: 'character-device', path: 'dev/console', major: 5, minor: 1 },
  { kind: 'directory', path: 'root', mode: 0o700 },
  text('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n'),
  text('etc/group', 'root:x:0:\n'),
  text('etc/hostname', 'sealbus\n'),
];

let appletsOf: { readonly path: string; readonly names: Promise<string[]> } | undefined;

/** busybox is static, so it runs here as in the guest. */
async function busyboxApplets(path: string): Promise<string[]> {
  if (appletsOf?.path !== path) {
    const names = runCommand(path, ['--list'], { timeout_ms: 10_000 }).then(({ stdout }) =>
      stdout.split('\n').filter((name) => /^[\w.[-]+$/.test(name) && name !== 'busybox'),
    );
    appletsOf = { path, names };
  }
  return await appletsOf.names;
}
