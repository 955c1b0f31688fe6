/**
 * The parts that set-up made, one directory a part and version under the XDG cache folder:
 * `<root>/<part>-<version>-r<recipe>/`. A directory of that name is always whole: it is made
 * under another name and renamed when done. Its stamp names what must still be there.
 */
import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { mkdtemp, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { isAbsolute, join, relative } from 'node:path';
import { runCommand } from './command.ts';
import type { PartName } from './parts.ts';
import { diskFull, SetupError, saysDiskFull } from './setup-error.ts';

const stampName = 'sealbus-part.json';
const temporaryPrefix = '.making-';

interface Stamp<Record> {
  readonly part: PartName;
  readonly version: string;
  readonly recipe: number;
  /** Where it was made: records hold absolute paths, so one that was moved is made again. */
  readonly directory: string;
  readonly madeAt: string;
  /** Files that the part needs, with their sizes in bytes. */
  readonly files: Readonly<globalThis.Record<string, number>>;
  readonly record: Record;
}

/** How a kind of part is made; the recipe's number changes whenever its result would. */
export interface PartRecipe {
  readonly part: PartName;
  readonly recipe: number;
  /** Space that making it takes at its widest, downloads included. */
  readonly needsBytes: number;
}

/** $XDG_CACHE_HOME/sealbus, or ~/.cache/sealbus; a relative XDG_CACHE_HOME counts as unset. */
export function cacheRoot(env: Readonly<Record<string, string | undefined>> = process.env): string {
  const base = env.XDG_CACHE_HOME;
  return join(base && isAbsolute(base) ? base : join(homedir(), '.cache'), 'sealbus');
}

/** Makes the cache folder itself. @throws SetupError where that cannot be */
export function makeCacheRoot(root: string): void {
  try {
    mkdirSync(root, { recursive: true, mode: 0o755 });
  } catch (error) {
    if (saysDiskFull(error)) throw diskFull(root, 2 ** 20, { cause: error });
    throw new SetupError({
      expected: `a cache folder at ${root}`,
      got: error instanceof Error ? error.message : String(error),
      remedy: 'Set XDG_CACHE_HOME to a directory that you may write to.',
      cause: error,
    });
  }
}

/** One that was made. */
export interface MadePart<Record> {
  readonly version: string;
  readonly directory: string;
  readonly record: Record;
}

/** The part as it was last made with this recipe, where it is whole. Costs a few stats. */
export function findMade<Record>(
  root: string,
  recipe: Pick<PartRecipe, 'part' | 'recipe'>,
): MadePart<Record> | undefined {
  return listMade<Record>(root, recipe)[0];
}

/**
 * Every version of the part that was made with this recipe and is whole: every file of its stamp is
 * there and as long as it was. The one made last comes first.
 */
export function listMade<Record>(
  root: string,
  { part, recipe }: Pick<PartRecipe, 'part' | 'recipe'>,
): readonly MadePart<Record>[] {
  return entries(root)
    .filter((name) => name.startsWith(`${part}-`) && name.endsWith(`-r${recipe}`))
    .map((name) => readStamp<Record>(join(root, name)))
    .filter((stamp) => stamp !== undefined)
    .filter((stamp) => stamp.part === part && stamp.recipe === recipe && isWhole(stamp))
    .sort((a, b) => (a.madeAt < b.madeAt ? 1 : -1));
}

/**
 * Makes a part: `build` fills the temporary directory (paths in its record name the final one),
 * which is then flushed and renamed. The caller holds the cache's lock.
 * @throws SetupError where the disk is full; whatever `build` throws. Nothing half-made is left.
 */
export async function makePart<Record>(
  root: string,
  recipe: PartRecipe,
  version: string,
  build: (
    temporary: string,
    final: string,
  ) => Promise<{ readonly record: Record; readonly files: readonly string[] }>,
  signal?: AbortSignal,
): Promise<Record> {
  const final = join(root, `${recipe.part}-${fileName(version)}-r${recipe.recipe}`);
  return await inTemporary(root, recipe.part, recipe.needsBytes, async (temporary) => {
    const { record, files } = await build(temporary, final);
    const stamp: Stamp<Record> = {
      part: recipe.part,
      version,
      recipe: recipe.recipe,
      directory: final,
      madeAt: new Date().toISOString(),
      files: Object.fromEntries(
        files.map((file) => [file, lstatSync(join(temporary, relative(final, file))).size]),
      ),
      record,
    };
    writeFileSync(join(temporary, stampName), JSON.stringify(stamp, null, 2));
    // Contents before the name, so that a power cut cannot leave a whole-looking directory.
    await runCommand('sync', ['-f', temporary], { timeout_ms: 120_000, signal });
    signal?.throwIfAborted();
    await rm(final, { recursive: true, force: true }); // only ever one that is no longer whole
    await rename(temporary, final);
    return record;
  });
}

/**
 * Runs `use` with a directory in the cache that is gone afterwards, however it ends.
 * @throws SetupError where the disk is, or gets, full
 */
export async function inTemporary<Result>(
  root: string,
  label: string,
  needsBytes: number,
  use: (directory: string) => Promise<Result>,
): Promise<Result> {
  checkFreeSpace(root, needsBytes);
  const directory = await mkdtemp(join(root, `${temporaryPrefix}${label}-`));
  try {
    return await use(directory);
  } catch (error) {
    if (saysDiskFull(error)) throw diskFull(root, needsBytes, { cause: error });
    throw error;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Removes what killed runs left. The caller holds the cache's lock, so none is in use. */
export async function removeLeftovers(root: string): Promise<void> {
  for (const name of entries(root)) {
    if (!name.startsWith(temporaryPrefix)) continue;
    await rm(join(root, name), { recursive: true, force: true });
  }
}

function checkFreeSpace(root: string, needsBytes: number): void {
  const { blocks, bavail, bsize } = statfsSync(root);
  // A file system that tells no size (0 blocks) is found full only when it is.
  const freeBytes = bavail * bsize;
  if (blocks > 0 && freeBytes < needsBytes) throw diskFull(root, needsBytes, { freeBytes });
}

function isWhole(stamp: Stamp<unknown>): boolean {
  return Object.entries(stamp.files).every(([file, size]) => {
    try {
      return lstatSync(file).size === size;
    } catch {
      return false;
    }
  });
}

function readStamp<Record>(directory: string): Stamp<Record> | undefined {
  try {
    const stamp = JSON.parse(readFileSync(join(directory, stampName), 'utf8')) as Stamp<Record>;
    return stamp.directory === directory && stamp.files ? stamp : undefined;
  } catch {
    return undefined; // no stamp, or not ours: not a part
  }
}

function entries(root: string): string[] {
  try {
    return readdirSync(root);
  } catch {
    return []; // no cache yet
  }
}

/** A Debian version without what a path or make(1) would trip over (epoch, `~`, …). */
function fileName(version: string): string {
  return version.replace(/^\d+:/, '').replaceAll(/[^\w.+-]/g, '_');
}
