/**
 * Programs of a newer Debian on an older one: run by the unpacked tree's own dynamic loader, with
 * the tree's own libraries, so that the host's libc is neither used nor touched.
 */
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { basename, join, sep } from 'node:path';
import { runCommand } from './command.ts';
import { SetupError } from './setup-error.ts';

const loaderName = 'ld-linux-x86-64.so.2';

/**
 * Copies a tree's loader and every library that the programs need into `into`.
 * @throws SetupError where one is not in the tree
 */
export async function copyLibraries(
  tree: string,
  programs: readonly string[],
  into: string,
  signal?: AbortSignal,
): Promise<void> {
  const directory = join(tree, 'usr/lib/x86_64-linux-gnu');
  const loader = join(directory, loaderName);
  if (!existsSync(loader)) throw incomplete(loader, tree);
  mkdirSync(into, { recursive: true });
  copyFileSync(loader, join(into, loaderName));
  for (const program of programs) {
    const { stdout } = await runCommand(
      loader,
      ['--inhibit-cache', '--library-path', directory, '--list', program],
      { timeout_ms: 30_000, signal },
    );
    for (const [, path] of stdout.matchAll(/=> (\S+) \(0x/g)) {
      if (path === loader) continue;
      if (!path!.startsWith(tree + sep)) throw incomplete(path!, tree);
      copyFileSync(path!, join(into, basename(path!)));
    }
  }
}

/** The command that runs `program` with the loader and the libraries in `libraries`. */
export function loaderCommand(
  libraries: string,
  program: string,
): readonly [program: string, ...args: string[]] {
  const named = ['--argv0', basename(program), program];
  return [join(libraries, loaderName), '--inhibit-cache', '--library-path', libraries, ...named];
}

function incomplete(path: string, tree: string): SetupError {
  return new SetupError({
    expected: `every library inside the unpacked tree ${tree}`,
    got: `${path} outside it, or absent`,
    remedy: "The archive's packages do not fit together; run it again when its mirror is in step.",
  });
}
