/** Which vitest runs a project's tests, and with what. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const configNames = ['vitest.config', 'vite.config'].flatMap((name) =>
  ['ts', 'mts', 'cts', 'js', 'mjs', 'cjs'].map((ending) => `${name}.${ending}`),
);

/** Names the file that our TAP reporter writes. */
export const tapFileVariable = 'SEALBUS_TAP_FILE';

/** The configuration for a project without one of its own. */
export const defaultConfig = ourModule('../testkit/vitest-config.ts');

export function hasConfig(project: string): boolean {
  return configNames.some((name) => existsSync(join(project, name)));
}

/**
 * The program of the project's own vitest, or of ours.
 * @throws Error where its own is of a version that `sealbus/vitest` does not fit
 */
export function findVitest(project: string): string {
  const ours = vitestFrom(fileURLToPath(import.meta.url));
  const theirs = vitestFrom(join(project, 'package.json')) ?? ours;
  if (ours === undefined || theirs === undefined) {
    throw new Error(`expected vitest in ${project}, got none. Run 'npm install' there.`);
  }
  if (major(theirs.version) !== major(ours.version)) {
    throw new Error(
      `expected vitest ${major(ours.version)} in ${project}, got ${theirs.version}. ` +
        `Run 'npm install --save-dev vitest@${ours.version}' there.`,
    );
  }
  return theirs.program;
}

interface Vitest {
  readonly version: string;
  /** Absolute path of what Node runs. */
  readonly program: string;
}

/** As a module at this path would find it. */
function vitestFrom(path: string): Vitest | undefined {
  let manifest: string;
  try {
    manifest = createRequire(path).resolve('vitest/package.json');
  } catch {
    return undefined; // none there
  }
  const { version, bin } = JSON.parse(readFileSync(manifest, 'utf8')) as {
    version: string;
    bin: { vitest: string };
  };
  return { version, program: join(dirname(manifest), bin.vitest) };
}

function major(version: string): string {
  return version.split('.', 1)[0] ?? '';
}

/** What stdout gets: vitest's own words for people, or a report that a machine reads. */
export type ReportKind = 'default' | 'verbose' | 'tap' | 'json' | 'junit';

export const reportKinds: readonly ReportKind[] = ['default', 'verbose', 'tap', 'json', 'junit'];

/**
 * The flags that have vitest write its reports; none where neither is named, so that the project says.
 * @param kind its words for people are always among them
 * @param file where a report for machines goes
 * @param junit where a JUnit report goes beside it
 */
export function reporterFlags(
  kind: ReportKind | undefined,
  file: string,
  junit?: string,
): readonly string[] {
  if (kind === undefined && junit === undefined) return [];
  const names = [
    kind === 'verbose' ? 'verbose' : 'default',
    ...(process.env.GITHUB_ACTIONS === 'true' ? ['github-actions'] : []),
    ...(kind === 'tap' ? [ourModule('./tap-file-reporter.ts')] : []),
    ...(kind === 'json' ? ['json'] : []),
    ...(kind === 'junit' || junit !== undefined ? ['junit'] : []),
  ];
  return [
    ...names.map((name) => `--reporter=${name}`),
    ...(kind === 'json' ? [`--outputFile.json=${file}`] : []),
    ...(kind === 'junit' || junit !== undefined ? [`--outputFile.junit=${junit ?? file}`] : []),
  ];
}

function ourModule(path: string): string {
  return fileURLToPath(new URL(path, import.meta.url));
}
