/**
 * Builds the guest's C programs and kernel modules from qemu/, once for each content: what is made
 * lies in the cache under the hash of its sources, its compiler and its flags.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandError, runCommand } from '../setup/command.ts';
import { findProgram, installCommand } from '../setup/host-programs.ts';
import { cacheRoot } from '../setup/part-cache.ts';
import type { KernelPart } from '../setup/parts.ts';
import { VmError } from './vm-error.ts';

/** The repository's qemu/. */
export const guestSources = fileURLToPath(new URL('../../qemu/', import.meta.url));

/** Of the guest's static programs. */
export const programFlags = [
  ...['-std=gnu11', '-O2', '-Wall', '-Wextra'],
  ...['-static', '-s', '-pthread', '-ffunction-sections', '-Wl,--gc-sections'],
];
/**
 * Debugging information would be twenty times the code, and be unpacked at every boot. A file is called
 * by its name, not by where it was built: in the kernel's warnings.
 */
const moduleFlags = (folder: string) => ['W=1', `KCFLAGS=-g0 -fmacro-prefix-map=${folder}/=`];
export const buildTimeoutMs = 120_000;
/** The kernel's build unsets LC_ALL: messages are read, so they are to be English whatever the host's are. */
export const englishMessages = { LANG: 'C', LC_MESSAGES: 'C', LC_CTYPE: 'C', LANGUAGE: '' };
/** Of one name; older ones are removed. */
const keptOfEachName = 8;

/** Where what is made for guests lies. */
export function guestCache(root = cacheRoot()): string {
  return join(root, 'guest');
}

/**
 * A static program of one C file under qemu/, such as `agent/agent.c`; headers beside it count as
 * sources. @returns its path. @throws VmError, SetupError with what the compiler said
 */
export async function buildProgram(source: string, cache = guestCache()): Promise<string> {
  const compiler = needed('gcc');
  const file = join(guestSources, source);
  const directory = join(file, '..');
  const headers = files(directory).filter((name) => name.endsWith('.h'));
  const inputs = [file, ...headers.map((name) => join(directory, name))];
  const flags = [...programFlags, '-Werror'];
  const key = contentKey(inputs, [...flags, identity(compiler)]);
  return await made(cache, basename(source, '.c'), key, '', async (temporary) => {
    const output = join(temporary, 'program');
    await runCommand(compiler, [...flags, '-o', output, file], { timeout_ms: buildTimeoutMs });
    return output;
  });
}

/**
 * A kernel module whose sources and Kbuild are a folder under qemu/; it is named as the module.
 * A compiler's warning counts as a failure.
 * @returns the path of the .ko. @throws VmError, SetupError with what make said
 */
export async function buildModule(
  folder: string,
  module: string,
  kernel: KernelPart,
  cache = guestCache(),
): Promise<string> {
  const build = moduleBuild(kernel);
  const directory = join(guestSources, folder);
  const inputs = files(directory).filter(
    (name) => name === 'Kbuild' || isModuleSource(name, module),
  );
  const paths = inputs.map((name) => join(directory, name));
  const key = contentKey(paths, build.dependsOn);
  return await made(cache, module, key, '.ko', async (temporary) => {
    for (const path of paths) await cp(path, join(temporary, basename(path)));
    const args = build.arguments(temporary);
    const { stdout, stderr } = await runCommand(build.make, args, {
      timeout_ms: buildTimeoutMs,
      env: englishMessages,
    });
    const said = `${stdout}${stderr}`;
    const warnings = said.split('\n').filter((line) => /\bwarning:/i.test(line));
    if (warnings.length > 0) throw new CommandError(build.make, args, 'warnings', 0, said);
    return join(temporary, `${module}.ko`);
  });
}

export interface ModuleBuild {
  readonly make: string;
  /** For a folder with a Kbuild. */
  arguments(folder: string): string[];
  /** What the outcome depends on beside the sources. */
  readonly dependsOn: readonly string[];
}

/** How modules are built against a kernel. @throws VmError where make is not there */
export function moduleBuild({ release, build }: KernelPart): ModuleBuild {
  const variables = Object.entries(build.variables).map(([name, value]) => `${name}=${value}`);
  const { directory, identity = '' } = build;
  return {
    make: needed('make'),
    arguments: (folder) => {
      return ['-C', directory, `M=${folder}`, ...variables, ...moduleFlags(folder), 'modules'];
    },
    dependsOn: [release, directory, identity, ...variables, ...moduleFlags('')],
  };
}

/**
 * The file of that name and key in the cache, made where it is not there: `make` fills a temporary
 * directory and names the file in it that is wanted. Two that do so at once do not disturb.
 */
export async function made(
  cache: string,
  name: string,
  key: string,
  extension: string,
  make: (temporary: string) => Promise<string>,
  kept = keptOfEachName,
): Promise<string> {
  const final = join(cache, `${name}-${key}${extension}`);
  if (existsSync(final)) return final;
  await mkdir(cache, { recursive: true });
  const temporary = await mkdtemp(join(cache, `.making-${name}-`));
  try {
    await rename(await make(temporary), final);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  prune(cache, name, extension, kept);
  return final;
}

/** As {@link made}, from bytes. */
export async function madeFrom(
  cache: string,
  name: string,
  key: string,
  bytes: () => Uint8Array,
): Promise<string> {
  return await made(cache, name, key, '', async (temporary) => {
    const file = join(temporary, name);
    await writeFile(file, bytes());
    return file;
  });
}

/** 16 hexadecimal digits over the files' names and contents, and the strings. */
export function contentKey(paths: readonly string[], strings: readonly string[]): string {
  const hash = createHash('sha256').update(JSON.stringify(strings));
  for (const path of paths) {
    const bytes = readFileSync(path);
    hash.update(`\0${basename(path)}\0${bytes.length}\0`).update(bytes);
  }
  return hash.digest('hex').slice(0, 16);
}

function isModuleSource(name: string, module: string): boolean {
  return name.startsWith(module) && /\.[ch]$/.test(name);
}

function files(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => entry.name)
    .sort();
}

/** Where a program of the host is. @throws VmError with what installs it */
export function needed(program: string): string {
  const found = findProgram(program);
  if (found) return found;
  throw new VmError(
    `expected ${program} on PATH to build the guest's programs, found none. ` +
      `Install it: ${installCommand([program])}`,
  );
}

/** Changes when the compiler does, without running it. */
export function identity(program: string): string {
  const path = realpathSync(program);
  const { size, mtimeMs } = statSync(path);
  return `${path} ${size} ${mtimeMs}`;
}

function prune(cache: string, name: string, extension: string, kept: number): void {
  const same = new RegExp(`^${name}-[0-9a-f]{16}${extension.replace('.', '\\.')}$`);
  const old = files(cache)
    .filter((entry) => same.test(entry))
    .map((entry) => ({ entry, at: modified(join(cache, entry)) }))
    .sort((a, b) => b.at - a.at)
    .slice(kept);
  for (const { entry } of old) rmSync(join(cache, entry), { force: true });
}

/** 0 where another process has just removed it. */
function modified(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}
