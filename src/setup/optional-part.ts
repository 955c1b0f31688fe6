import { DebianArchive } from './debian-archive.ts';
import { lockFile } from './file-lock.ts';
import { neededPrograms } from './host-programs.ts';
import { ensurePrograms } from './install-programs.ts';
import { cacheRoot, inTemporary, makeCacheRoot } from './part-cache.ts';
import type { PartName } from './parts.ts';
import type { SetupProgress } from './progress.ts';
import type { Making } from './recipe.ts';

/** A part that only some commands need. */
export interface OptionalPart<Part> {
  readonly name: PartName;
  readonly find: (root: string) => Part | undefined;
  readonly make: (making: Making) => Promise<Part>;
}

const indexBytes = 160 * 2 ** 20;

/**
 * Finds the part, or makes it from Debian's archive; one process at a time does.
 * @throws SetupError with what to do; the signal's reason. Nothing half-made is left.
 */
export async function ensureOptionalPart<Part>(
  { name, find, make }: OptionalPart<Part>,
  {
    progress = () => {},
    signal,
  }: { readonly progress?: SetupProgress; readonly signal: AbortSignal },
): Promise<Part> {
  const root = cacheRoot();
  const found = find(root);
  if (found !== undefined) return found;
  makeCacheRoot(root);
  const onWait = (holder: number | undefined) =>
    progress({ part: 'host', phase: `waiting for another set-up (process ${holder ?? '?'})` });
  const lock = await lockFile(`${root}/set-up.lock`, { signal, onWait });
  try {
    const foundNow = find(root); // the other may have made it
    if (foundNow !== undefined) return foundNow;
    await ensurePrograms(neededPrograms, 'what set-up fetches with', { progress, signal });
    return await inTemporary(root, 'index', indexBytes, async (directory) => {
      let opened: Promise<DebianArchive> | undefined;
      const archive = () => {
        opened ??= DebianArchive.open({ directory, suites: ['trixie'], progress, signal });
        return opened;
      };
      const part = await make({ root, archive, progress, signal });
      progress({ part: name, phase: 'ready' });
      return part;
    });
  } finally {
    lock[Symbol.dispose]();
  }
}
