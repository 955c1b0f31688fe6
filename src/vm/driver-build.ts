/**
 * Builds what authors bring from anywhere: kernel modules from a C file or a folder with a Kbuild, and
 * programs for the guest, each once for its content. Their warnings are kept, and are no failure.
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { cp, mkdir, writeFile } from 'node:fs/promises';
import { basename, dirname, extname, join, resolve } from 'node:path';
import { runCommand } from '../setup/command.ts';
import type { KernelPart } from '../setup/parts.ts';
import {
  countMessages,
  firstErrorPlace,
  messagesOf,
  type SourcePlace,
} from './compiler-messages.ts';
import {
  buildTimeoutMs,
  contentKey,
  englishMessages,
  guestCache,
  identity,
  made,
  moduleBuild,
  needed,
  programFlags,
} from './guest-build.ts';
import { shownPath } from './shown-path.ts';
import { VmError } from './vm-error.ts';

export interface BuildOptions {
  readonly cache?: string;
  readonly signal?: AbortSignal;
}

/** The modules of one source, in the order in which its Kbuild names them. */
export interface BuiltModules {
  readonly modules: readonly BuiltFile[];
  /** What the compiler said, with paths as from the working directory; empty where it said nothing. */
  readonly warnings: string;
}

export interface BuiltProgram extends BuiltFile {
  readonly warnings: string;
}

export interface BuiltFile {
  /** Of a module without `.ko`. */
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** An author's source does not build. The message has what the compiler said. */
export class SourceBuildError extends VmError {
  override readonly name = 'SourceBuildError';
  /** Of the first error, with an absolute path. */
  readonly place: SourcePlace | undefined;

  constructor(message: string, place: SourcePlace | undefined) {
    super(message);
    this.place = place;
  }
}

const filesMax = 1000;
const bytesMax = 64 << 20;
/** Stands for the author's folder in what is cached. */
const folderMark = '@SOURCE@/';

/**
 * @param source absolute path of a C file, which is one module of its name with the headers beside it,
 *   or of a folder with a Kbuild or a Makefile for Kbuild
 * @throws SourceBuildError; VmError where there is no such source, or no compiler; SetupError
 */
export async function buildModules(
  source: string,
  kernel: KernelPart,
  { cache = guestCache(), signal }: BuildOptions = {},
): Promise<BuiltModules> {
  const build = moduleBuild(kernel);
  const compiler = needed('gcc');
  const { folder, files, kbuild } = moduleSources(source);
  const paths = files.map((name) => join(folder, name));
  const name = basename(source, '.c');
  const key = contentKey(paths, [...build.dependsOn, identity(compiler), ...files, kbuild ?? '']);
  const file = await made(cache, `modules-${name}`, key, '', async (temporary) => {
    const at = join(temporary, 'source');
    await copyInto(at, folder, files);
    if (kbuild !== undefined) await writeFile(join(at, 'Kbuild'), kbuild);
    const said = await compile(build.make, build.arguments(at), {
      source,
      folder,
      files,
      at,
      signal,
    });
    const result = join(temporary, 'result');
    await writeFile(result, JSON.stringify({ said, modules: modulesIn(at, source) }));
    return result;
  });
  const { said, modules } = JSON.parse(readFileSync(file, 'utf8')) as CachedModules;
  return {
    warnings: placed(said, folder),
    modules: modules.map(({ name, base64 }) => ({ name, bytes: Buffer.from(base64, 'base64') })),
  };
}

/**
 * A static program of one C file, named as the file is.
 * @throws SourceBuildError; VmError where there is no such file, or no compiler
 */
export async function buildGuestProgram(
  source: string,
  { cache = guestCache(), signal }: BuildOptions = {},
): Promise<BuiltProgram> {
  const compiler = needed('gcc');
  const { folder, files } = cFile(source, 'a C file of a program for the guest');
  const name = basename(source, '.c');
  const paths = files.map((name) => join(folder, name));
  const key = contentKey(paths, [...programFlags, identity(compiler), name]);
  const file = await made(cache, `program-${name}`, key, '', async (temporary) => {
    const at = join(temporary, 'source');
    await copyInto(at, folder, files);
    const output = join(temporary, 'program');
    const args = [...programFlags, '-o', output, join(at, basename(source))];
    const said = await compile(compiler, args, { source, folder, files, at, signal });
    const base64 = readFileSync(output).toString('base64');
    const result = join(temporary, 'result');
    await writeFile(result, JSON.stringify({ said, modules: [{ name, base64 }] }));
    return result;
  });
  const { said, modules } = JSON.parse(readFileSync(file, 'utf8')) as CachedModules;
  const bytes = Buffer.from(modules[0]?.base64 ?? '', 'base64');
  return { name, bytes, warnings: placed(said, folder) };
}

interface CachedModules {
  readonly said: string;
  readonly modules: readonly { readonly name: string; readonly base64: string }[];
}

interface Sources {
  /** Absolute. */
  readonly folder: string;
  /** Relative to it. */
  readonly files: readonly string[];
  /** What stands in for the Kbuild that is not there. */
  readonly kbuild?: string;
}

function moduleSources(source: string): Sources {
  if (!statSync(source, { throwIfNoEntry: false })?.isDirectory()) {
    const sources = cFile(source, 'a C file or a folder with a Kbuild');
    return { ...sources, kbuild: `obj-m += ${basename(source, '.c')}.o\n` };
  }
  if (!existsSync(join(source, 'Kbuild')) && !existsSync(join(source, 'Makefile'))) {
    throw new VmError(
      `expected a Kbuild in ${shownPath(source)}, got none. Name the modules there: obj-m += NAME.o`,
    );
  }
  const files = readdirSync(source, { recursive: true, encoding: 'utf8' })
    .filter((name) => isSource(name) && statSync(join(source, name)).isFile())
    .sort();
  const bytes = files.reduce((sum, name) => sum + statSync(join(source, name)).size, 0);
  if (files.length > filesMax || bytes > bytesMax) {
    throw new VmError(
      `expected at most ${filesMax} files and ${bytesMax >> 20} MiB of sources in ` +
        `${shownPath(source)}, got ${files.length} files and ${Math.ceil(bytes / 2 ** 20)} MiB. ` +
        'Give the folder of the module alone.',
    );
  }
  return { folder: source, files };
}

function cFile(source: string, what: string): Sources {
  const status = statSync(source, { throwIfNoEntry: false });
  if (!status?.isFile() || extname(source) !== '.c') {
    const got = status === undefined ? 'nothing there' : 'something else';
    throw new VmError(`expected ${what} at ${source}, got ${got}`);
  }
  const folder = dirname(source);
  const headers = readdirSync(folder).filter((name) => name.endsWith('.h'));
  return { folder, files: [basename(source), ...headers.sort()] };
}

/** What a build reads, not what builds have left there. */
function isSource(path: string): boolean {
  if (/(^|\/)(node_modules|\.git)(\/|$)/.test(path)) return false;
  return /\.(c|h|S|lds)$|(^|\/)(Kbuild|Makefile|Kconfig)[^/]*$/.test(path);
}

async function copyInto(at: string, folder: string, files: readonly string[]): Promise<void> {
  await mkdir(at, { recursive: true });
  for (const name of files) await cp(join(folder, name), join(at, name), { dereference: true });
}

interface Compilation {
  readonly source: string;
  readonly folder: string;
  readonly files: readonly string[];
  /** Where the copy is. */
  readonly at: string;
  readonly signal: AbortSignal | undefined;
}

/** What was said, with a mark in place of the folder. @throws SourceBuildError */
async function compile(
  program: string,
  args: readonly string[],
  { source, folder, files, at, signal }: Compilation,
): Promise<string> {
  const options = { timeout_ms: buildTimeoutMs, allowFailure: true, signal, env: englishMessages };
  const { code, stdout, stderr } = await runCommand(program, args, options);
  // The messages are on standard error; make's own words on standard output.
  const said = marked(messagesOf(`${stderr}\n${stdout}`), at, files);
  if (code === 0) return said;
  throw buildError(source, folder, said || `exit code ${code}`);
}

/** Paths of the author's files come from the folder of the build, or relative to it. */
function marked(messages: string, at: string, files: readonly string[]): string {
  return messages
    .replaceAll(`${at}/`, folderMark)
    .replaceAll(/(^|\bfrom )([\w./+-]+)(?=:)/gm, (words, before: string, path: string) =>
      files.includes(path) ? `${before}${folderMark}${path}` : words,
    );
}

function buildError(source: string, folder: string, said: string): SourceBuildError {
  const errors = Math.max(1, countMessages(said, 'error'));
  const place = firstErrorPlace(said);
  const many = errors === 1 ? '1 error' : `${errors} errors`;
  const message = `expected ${shownPath(source)} to build, got ${many}:\n${placed(said, folder)}`;
  const file = place?.file.replace(folderMark, `${folder}/`);
  return new SourceBuildError(
    message,
    place && file !== undefined && file !== place.file ? { ...place, file } : undefined,
  );
}

function modulesIn(at: string, source: string): CachedModules['modules'] {
  const order = join(at, 'modules.order');
  const lines = existsSync(order) ? readFileSync(order, 'utf8').split('\n').filter(Boolean) : [];
  const modules = lines.map((line) => {
    // Absolute paths up to 6.12, relative ones after it.
    const file = resolve(at, line).replace(/\.o$/, '.ko');
    return { name: basename(file, '.ko'), base64: readFileSync(file).toString('base64') };
  });
  if (modules.length > 0) return modules;
  throw new VmError(
    `expected ${shownPath(source)} to build modules, got none. Name them in its Kbuild: obj-m += NAME.o`,
  );
}

function placed(said: string, folder: string): string {
  return said.replaceAll(folderMark, `${shownPath(folder)}/`);
}
