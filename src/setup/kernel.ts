/**
 * Debian trixie's 6.12 cloud kernel: image, ELF vmlinux, modules, and headers that build modules
 * with the host's gcc without being installed.
 */
import { chmodSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from './command.ts';
import { copyLibraries, loaderCommand } from './library-closure.ts';
import { findMade, makePart, type PartRecipe } from './part-cache.ts';
import type { KernelPart } from './parts.ts';
import { type Making, unpackPackages } from './recipe.ts';
import { SetupError } from './setup-error.ts';
import { extractVmlinux } from './vmlinux.ts';

export const kernelRecipe: PartRecipe = { part: 'kernel', recipe: 1, needsBytes: 300 * 2 ** 20 };

/** What the headers' own programs are linked against (they are of trixie, the host may be older). */
const libraryPackages = ['libc6', 'libelf1t64', 'zlib1g', 'libzstd1'];

export function findKernel(root: string): KernelPart | undefined {
  return findMade<KernelPart>(root, kernelRecipe)?.record;
}

export async function makeKernel(making: Making): Promise<KernelPart> {
  const { progress, signal } = making;
  const archive = await making.archive();
  const version = await archive.candidate('linux-image-cloud-amd64');
  const image = (await archive.dependencies('linux-image-cloud-amd64')).find((name) =>
    /^linux-image-6\.12\.\S+-cloud-amd64$/.test(name),
  );
  if (!image) {
    throw new SetupError({
      expected: 'linux-image-cloud-amd64 to depend on a 6.12 kernel',
      got: `version ${version}, which does not`,
      remedy: 'The archive has moved on; sealbus needs an update.',
    });
  }
  const release = image.slice('linux-image-'.length);
  const abi = release.slice(0, -'-cloud-amd64'.length);
  const headers = [`linux-headers-${release}`, `linux-headers-${abi}-common`];
  const names = [image, ...headers, `linux-kbuild-${abi}`, ...libraryPackages];

  return await makePart(
    making.root,
    kernelRecipe,
    version,
    async (temporary, final) => {
      const debs = join(temporary, 'deb');
      await unpackPackages(
        making,
        'kernel',
        await archive.download('kernel', names, debs),
        temporary,
      );
      await rm(debs, { recursive: true });

      progress({ part: 'kernel', phase: 'taking vmlinux out of the bzImage' });
      const bzImage = join('boot', `vmlinuz-${release}`);
      const elf = await extractVmlinux(readFileSync(join(temporary, bzImage)), (packed) =>
        unxz(packed, temporary, signal),
      );
      const vmlinux = join('boot', `vmlinux-${release}`);
      writeFileSync(join(temporary, vmlinux), elf);

      progress({ part: 'kernel', phase: 'making the headers build here' });
      const kbuild = join('usr/lib', `linux-kbuild-${abi}`);
      await wrapPrograms(temporary, final, kbuild, signal);
      const build = join('usr/src', `linux-headers-${release}`);
      rewriteHeaders(temporary, final, build);
      for (const name of ['usr/share', 'usr/bin', 'usr/sbin', 'etc', 'var', 'lib64', 'usr/lib64']) {
        await rm(join(temporary, name), { recursive: true, force: true });
      }
      await rm(join(temporary, 'usr/lib/x86_64-linux-gnu'), { recursive: true });

      const modules = join('usr/lib/modules', release);
      const record: KernelPart = {
        release,
        vmlinux: join(final, vmlinux),
        bzImage: join(final, bzImage),
        modules: join(final, modules),
        build: {
          directory: join(final, build),
          variables: {
            CC: 'gcc',
            CROSS_COMPILE: '',
            // gcc 14 has -fmin-function-alignment, which the kernel was configured with; 12 has not.
            CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT: '',
            CONFIG_DEBUG_INFO_BTF_MODULES: '', // needs pahole
          },
        },
      };
      const files = [
        record.vmlinux,
        record.bzImage,
        join(record.modules, 'modules.order'),
        join(record.build.directory, 'Module.symvers'),
        join(record.build.directory, 'Makefile'),
        join(final, kbuild, 'scripts/mod/modpost'),
      ];
      return { record, files };
    },
    signal,
  );
}

async function unxz(packed: Buffer, directory: string, signal?: AbortSignal): Promise<Buffer> {
  const file = join(directory, 'payload');
  writeFileSync(`${file}.xz`, packed);
  await runCommand('xz', ['-d', '--single-stream', `${file}.xz`], { timeout_ms: 120_000, signal });
  const unpacked = readFileSync(file);
  await rm(file);
  return unpacked;
}

/** Puts scripts in the place of the programs that a module build runs: they call the tree's loader. */
async function wrapPrograms(
  temporary: string,
  final: string,
  kbuild: string,
  signal?: AbortSignal,
): Promise<void> {
  const programs = [
    'scripts/basic/fixdep',
    'scripts/mod/modpost.real-lsb-64',
    'scripts/mod/modpost',
    'scripts/genksyms/genksyms',
    'tools/objtool/objtool.real-x86',
    'tools/objtool/objtool',
    'tools/bpf/resolve_btfids/resolve_btfids',
  ].filter((name) => existsSync(join(temporary, kbuild, name)));
  const libraries = join(kbuild, 'lib');
  await copyLibraries(
    temporary,
    programs.map((name) => join(temporary, kbuild, name)),
    join(temporary, libraries),
    signal,
  );
  for (const name of programs) {
    const wrapper = join(temporary, kbuild, name);
    // Debian's modpost and objtool pick the real program by their own path: leave them as they are.
    if (existsSync(`${wrapper}.real-lsb-64`) || existsSync(`${wrapper}.real-x86`)) continue;
    const program = `${name}.program`;
    renameSync(wrapper, join(temporary, kbuild, program));
    const command = loaderCommand(join(final, libraries), join(final, kbuild, program));
    writeFileSync(wrapper, `#!/bin/sh\nexec ${command.map(shellQuoted).join(' ')} "$@"\n`);
    chmodSync(wrapper, 0o755);
  }
}

/** The headers name each other by where a package would put them. */
function rewriteHeaders(temporary: string, final: string, build: string): void {
  const makefile = join(temporary, build, 'Makefile');
  const text = readFileSync(makefile, 'utf8');
  writeFileSync(makefile, text.replaceAll('/usr/src/', `${join(final, 'usr/src')}/`));
}

function shellQuoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
