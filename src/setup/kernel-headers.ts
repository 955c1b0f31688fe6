/** Debian's kernel headers made to build modules with the host's gcc, without being installed. */
import { chmodSync, existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { copyLibraries, loaderCommand } from './library-closure.ts';

/** What the headers' own programs are linked against (they are of trixie, the host may be older). */
export const libraryPackages = ['libc6', 'libelf1t64', 'zlib1g', 'libzstd1'];

/** Where things are in the unpacked packages, relative to their root. */
export interface HeadersPlaces {
  /** `usr/lib/linux-kbuild-…`: the programs that a module build runs. */
  readonly kbuild: string;
  /** `usr/src/linux-headers-…-cloud-amd64`: what `make -C` is given. */
  readonly build: string;
}

/**
 * Changes the tree under `temporary` so that modules build against it once it lies at `final`.
 * @returns the variables that make needs on this host
 */
export async function prepareHeaders(
  temporary: string,
  final: string,
  { kbuild, build }: HeadersPlaces,
  signal?: AbortSignal,
): Promise<Readonly<Record<string, string>>> {
  await wrapPrograms(temporary, final, kbuild, signal);
  const makefile = join(temporary, build, 'Makefile');
  const text = readFileSync(makefile, 'utf8');
  const included = join(temporary, includedMakefile(text));
  // The headers name each other by where a package would put them.
  writeFileSync(makefile, text.replaceAll('/usr/src/', `${join(final, 'usr/src')}/`));
  return {
    CC: 'gcc',
    CROSS_COMPILE: '',
    // gcc 14 has -fmin-function-alignment, which the kernel was configured with; 12 has not.
    CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT: '',
    CONFIG_DEBUG_INFO_BTF_MODULES: '', // needs pahole
    ...paholeVersion(readFileSync(included, 'utf8'), join(temporary, build, '.config')),
  };
}

/** The common headers' Makefile, which the flavour's one includes: a path without leading slash. */
function includedMakefile(text: string): string {
  const path = /^include \/(usr\/src\/\S+)$/m.exec(text)?.[1];
  if (path === undefined) throw new Error(`expected an include in the headers' Makefile: ${text}`);
  return path;
}

/**
 * Newer kernels warn where pahole is another than the kernel's own, though a module without BTF needs
 * none: where warnings count, make is told that it is the same.
 */
function paholeVersion(makefile: string, configFile: string): Record<string, string> {
  if (!makefile.includes('$(CONFIG_PAHOLE_VERSION)')) return {};
  const version = /^CONFIG_PAHOLE_VERSION=(\d+)$/m.exec(readFileSync(configFile, 'utf8'))?.[1];
  return version === undefined ? {} : { PAHOLE_VERSION: version };
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

function shellQuoted(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
