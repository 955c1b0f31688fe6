/** Makes a folder with a device, a driver, tests of both and a CI file, which pass as they are. */
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageManifest } from './package-manifest.ts';
import { type ProjectName, projectName, renamed } from './project-name.ts';
import { ScaffoldError } from './scaffold-error.ts';

/** Where each file of a project comes from, relative to the root of this package. */
const sources = {
  'src/widget.ts': 'src/scaffold/template/src/widget.ts',
  'driver/widget.c': 'qemu/template/widget.c',
  'test/widget.client.test.ts': 'src/scaffold/template/test/widget.client.test.ts',
  'test/widget.guest.test.ts': 'src/scaffold/template/test/widget.guest.test.ts',
  'vitest.config.ts': 'src/scaffold/template/vitest.config.ts',
  'tsconfig.json': 'src/scaffold/template/tsconfig.json',
  'README.md': 'src/scaffold/template/README.md',
  // Under names that npm and git would heed they would not be here as they are.
  '.gitignore': 'src/scaffold/template/gitignore',
  '.github/workflows/test.yml': 'src/scaffold/template/workflow.yml',
} as const;

const root = realpathSync(fileURLToPath(new URL('../..', import.meta.url)));

/** What a version control system leaves in a directory that is as good as empty. */
const ofVersionControl = ['.git', '.hg', '.jj', '.svn'];
const shownMax = 3;

export interface MadeProject {
  readonly name: string;
  /** Absolute. */
  readonly directory: string;
  /** Relative to it. */
  readonly files: readonly string[];
}

/**
 * @param directory one that is empty, or is not there yet
 * @param name default: that of the directory
 * @throws ScaffoldError; what was made until then is removed
 */
export function makeProject(directory: string, name?: string): MadeProject {
  const target = resolve(directory);
  const named = projectName(name ?? basename(target));
  const made = new MadePaths();
  try {
    made.directory(target);
    checkEmpty(target);
    const at = realpathSync(target);
    const files = [...contents(named, at)];
    for (const [path, content] of files) {
      made.directory(dirname(join(at, path)));
      made.file(join(at, path), content);
    }
    return { name: named.package, directory: at, files: files.map(([path]) => path) };
  } catch (error) {
    made.remove();
    throw error instanceof ScaffoldError ? error : unwritable(target, error);
  }
}

function* contents(name: ProjectName, directory: string): Generator<readonly [string, string]> {
  yield ['package.json', packageManifest(name.package, directory, root)];
  for (const [path, source] of Object.entries(sources)) {
    yield [renamed(path, name), renamed(readFileSync(join(root, source), 'utf8'), name)];
  }
}

function checkEmpty(directory: string): void {
  const there = readdirSync(directory).filter((name) => !ofVersionControl.includes(name));
  if (there.length === 0) return;
  const more = there.length > shownMax ? ', …' : '';
  throw new ScaffoldError(
    `expected an empty directory, or none, at ${directory}, got one with ${there.length} ` +
      `${there.length === 1 ? 'entry' : 'entries'}: ${there.slice(0, shownMax).join(', ')}${more}. ` +
      'Name another.',
  );
}

function unwritable(directory: string, cause: unknown): ScaffoldError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new ScaffoldError(
    `expected a directory that can be made and written to at ${directory}, got ${why}. ` +
      'Name another; nothing was left there.',
    { cause },
  );
}

/** What was made, to be taken away again where the rest cannot be. */
class MadePaths {
  readonly #directories: string[] = [];
  readonly #files: string[] = [];

  /**
   * With those above it that are not there either: one by one, as mkdir with all of them tells of a
   * file system that is read-only as if something were missing.
   */
  directory(path: string): void {
    if (existsSync(path)) return;
    this.directory(dirname(path));
    mkdirSync(path);
    this.#directories.push(path);
  }

  file(path: string, content: string): void {
    const fd = openSync(path, 'wx'); // never over one that came meanwhile
    this.#files.push(path);
    try {
      writeFileSync(fd, content);
    } finally {
      closeSync(fd);
    }
  }

  remove(): void {
    for (const path of this.#files) rmSync(path, { force: true });
    // The last one first; one that somebody else has put something into stays.
    for (const path of this.#directories.reverse()) {
      try {
        rmdirSync(path);
      } catch {
        // not empty, or gone already
      }
    }
  }
}
