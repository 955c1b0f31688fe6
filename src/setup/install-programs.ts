/** Programs that the host lacks: installed where we may, else named with the command to run. */
import { runCommand } from './command.ts';
import { findProgram, installCommand, isThere, packageOf } from './host-programs.ts';
import type { SetupProgress } from './progress.ts';
import { SetupError } from './setup-error.ts';

/**
 * Installs what brings these programs, as root; nothing where all are there.
 * @throws SetupError with the command to run where the caller may not install
 */
export async function ensurePrograms(
  names: readonly string[],
  purpose: string,
  { progress, signal }: { readonly progress: SetupProgress; readonly signal?: AbortSignal },
): Promise<void> {
  const absent = names.filter((name) => !isThere(name));
  if (absent.length === 0) return;
  const installable = findProgram('apt-get') !== undefined;
  if (!installable || process.getuid?.() !== 0) {
    throw new SetupError({
      expected: purpose,
      got: `no ${absent.join(', no ')}`,
      remedy: `Run (as root): ${installCommand(absent)}`,
    });
  }
  const packages = [...new Set(absent.flatMap((name) => packageOf[name] ?? [name]))];
  progress({
    part: 'host',
    phase: `installing ${packages.join(', ')} (${installCommand(absent)})`,
  });
  const options = {
    env: { DEBIAN_FRONTEND: 'noninteractive' },
    timeout_ms: 15 * 60_000,
    signal,
  };
  await runCommand('apt-get', ['-q', 'update'], options);
  await runCommand(
    'apt-get',
    ['-q', '-y', '--no-install-recommends', 'install', ...packages],
    options,
  );
}
