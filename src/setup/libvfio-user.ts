/**
 * libvfio-user, built from Debian's `qemu` source package, which is the one that has it. Its JSON
 * library is linked in, so that the result needs libc alone.
 */
import { existsSync, mkdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from './command.ts';
import { DebianArchive, hostCodename } from './debian-archive.ts';
import { findMade, makePart, type PartRecipe } from './part-cache.ts';
import type { LibvfioUserPart } from './parts.ts';
import { type Making, unpackPackages } from './recipe.ts';
import { SetupError } from './setup-error.ts';

export const libvfioUserRecipe: PartRecipe = {
  part: 'libvfio-user',
  recipe: 1,
  needsBytes: 160 * 2 ** 20,
};

const sources = ['dma', 'irq', 'libvfio-user', 'migration', 'pci', 'pci_caps', 'tran', 'tran_sock'];

export function findLibvfioUser(root: string): LibvfioUserPart | undefined {
  return findMade<LibvfioUserPart>(root, libvfioUserRecipe)?.record;
}

export async function makeLibvfioUser(making: Making): Promise<LibvfioUserPart> {
  const { progress, signal } = making;
  const archive = await making.archive();
  const version = await archive.sourceVersion('qemu');
  return await makePart(
    making.root,
    libvfioUserRecipe,
    version,
    async (temporary, final) => {
      const download = join(temporary, 'download');
      const tarball = await archive.downloadTarball('libvfio-user', 'qemu', download);
      progress({ part: 'libvfio-user', phase: 'unpacking' });
      // Members are <package>-<version>/subprojects/libvfio-user/…
      const member = ['--wildcards', '--strip-components=2', '*/subprojects/libvfio-user/*'];
      await runCommand('tar', ['-C', temporary, '-xf', tarball, '--no-same-owner', ...member], {
        timeout_ms: 300_000,
        signal,
      });
      await rm(download, { recursive: true });
      const source = join(temporary, 'libvfio-user');
      const json = await jsonLibrary(making, temporary);

      progress({ part: 'libvfio-user', phase: 'compiling' });
      await runCommand(
        'gcc',
        [
          ...[
            '-std=gnu99',
            '-O2',
            '-g0',
            '-fPIC',
            '-shared',
            '-fvisibility=hidden',
            '-D_GNU_SOURCE',
          ],
          ...['-Iinclude', `-I${json.include}`],
          ...sources.map((name) => `lib/${name}.c`),
          json.archive,
          // Nothing of the JSON library is exported; nothing may be left to find at load time.
          ...['-Wl,--exclude-libs,ALL', '-Wl,-z,defs', '-Wl,-z,relro', '-Wl,-z,now'],
          ...['-Wl,-soname,libvfio-user.so.0', '-o', '../libvfio-user.so.0'],
        ],
        { cwd: source, timeout_ms: 300_000, signal },
      );
      await rm(join(temporary, 'json-c'), { recursive: true, force: true });
      const library = join(final, 'libvfio-user.so.0');
      const record = { version, library, source: join(final, 'libvfio-user') };
      return { record, files: [library, join(record.source, 'include/libvfio-user.h')] };
    },
    signal,
  );
}

interface JsonLibrary {
  /** The directory of json.h. */
  readonly include: string;
  readonly archive: string;
}

/**
 * json-c as a static library that fits the host's libc: the host's, or else the host's release's
 * (trixie's would ask an older libc for symbols that it has not).
 */
async function jsonLibrary(making: Making, temporary: string): Promise<JsonLibrary> {
  const inTree = (root: string): JsonLibrary | undefined => {
    const archive = join(root, 'usr/lib/x86_64-linux-gnu/libjson-c.a');
    const include = join(root, 'usr/include/json-c');
    if (!existsSync(archive) || !existsSync(join(include, 'json.h'))) return undefined;
    return { include, archive };
  };
  const ofHost = inTree('/');
  if (ofHost) return ofHost;
  const tree = join(temporary, 'json-c');
  mkdirSync(join(tree, 'deb'), { recursive: true });
  const files = await downloadJsonLibrary(making, join(tree, 'deb'), join(tree, 'apt'));
  await unpackPackages(making, 'libvfio-user', files, tree);
  const unpacked = inTree(tree);
  if (unpacked) return unpacked;
  throw new SetupError({
    expected: 'libjson-c.a and json-c/json.h in the package libjson-c-dev',
    got: 'a package without them',
    remedy: 'Run (as root): apt-get install libjson-c-dev',
  });
}

async function downloadJsonLibrary(
  making: Making,
  into: string,
  aptDirectory: string,
): Promise<readonly string[]> {
  const { progress, signal } = making;
  const codename = hostCodename();
  if (codename === 'trixie') {
    return await (await making.archive()).download('libvfio-user', ['libjson-c-dev'], into);
  }
  if (!codename) {
    throw new SetupError({
      expected: "the host's release (VERSION_CODENAME in /etc/os-release)",
      got: 'none',
      remedy: 'Install libjson-c-dev by hand; set-up then links that.',
    });
  }
  mkdirSync(aptDirectory);
  const ofHost = await DebianArchive.open({
    directory: aptDirectory,
    suites: [codename],
    progress,
    signal,
  });
  return await ofHost.download('libvfio-user', ['libjson-c-dev'], into);
}
