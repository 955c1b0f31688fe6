import { runCommand } from './command.ts';
import type { DebianArchive } from './debian-archive.ts';
import type { PartName } from './parts.ts';
import type { SetupProgress } from './progress.ts';

/** What the making of a part is given. */
export interface Making {
  /** The cache folder, locked. */
  readonly root: string;
  /** Opens Debian's archive at its first call; the same one afterwards. */
  readonly archive: () => Promise<DebianArchive>;
  readonly progress: SetupProgress;
  readonly signal?: AbortSignal | undefined;
}

/** Unpacks .deb files over each other, in order, without running anything of theirs. */
export async function unpackPackages(
  { progress, signal }: Making,
  part: PartName,
  files: readonly string[],
  into: string,
): Promise<void> {
  for (const [index, file] of files.entries()) {
    progress({ part, phase: 'unpacking', done: index, total: files.length });
    await runCommand('dpkg-deb', ['-x', file, into], { timeout_ms: 300_000, signal });
  }
}
