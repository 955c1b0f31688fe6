/**
 * What a failed test leaves: a directory of its own with logs, the trace, QEMU's command line, and the
 * line that repeats the test. The newest are kept; a test that passes takes its own away.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import type { Trace } from '../trace/trace.ts';

/** Where a test stands. */
export interface TestPlace {
  /** Absolute path of the test's file. */
  readonly file: string;
  /** Suites and test, joined by ` > ` as vitest matches -t against it. */
  readonly name: string;
  /** vitest's project, where it has a name. */
  readonly project?: string;
}

export interface Evidence {
  readonly console: string;
  /** The kernel's whole log; undefined where the guest did not give it any more. */
  readonly kernelLog: string | undefined;
  /** What sealbus said of devices and memory. */
  readonly machineLog: string;
  /** As a shell takes it; undefined where none was started. */
  readonly qemu: string | undefined;
  readonly trace: Trace;
  readonly seed: number;
}

/** Under the project's directory, where the environment does not say SEALBUS_ARTIFACTS. */
const directoryDefault = '.sealbus/failures';
const keptMax = 50;
const nameMax = 60;

/** Where the evidence of a test goes. */
export function evidenceDirectory(place: TestPlace, env = process.env): string {
  const root = projectOf(place.file);
  const base = resolve(root, env.SEALBUS_ARTIFACTS || directoryDefault);
  const whole = `${place.project ?? ''}\0${relative(root, place.file)}\0${place.name}`;
  const hash = createHash('sha256').update(whole).digest('hex').slice(0, 8);
  const file = basename(place.file).replace(/\.(test|spec)\.\w+$|\.\w+$/, '');
  return join(base, `${slug(file)}-${slug(place.name)}-${hash}`);
}

/** Writes it. @returns the directory, and the names of the files in it @throws Error where it cannot */
export function keepEvidence(
  place: TestPlace,
  evidence: Evidence,
): { readonly directory: string; readonly files: readonly string[] } {
  const directory = evidenceDirectory(place);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const files: string[] = [];
  const put = (name: string, content: string | undefined) => {
    if (content === undefined || content === '') return;
    writeFileSync(join(directory, name), content.endsWith('\n') ? content : `${content}\n`);
    files.push(name);
  };
  put('console.log', evidence.console);
  put('kernel.log', evidence.kernelLog);
  put('machine.log', evidence.machineLog);
  put('qemu.sh', evidence.qemu);
  evidence.trace.writeTo(join(directory, 'trace.ndjson'));
  files.push('trace.ndjson');
  put('repeat.sh', repeatLine(place, evidence.seed));
  prune(dirname(directory));
  return { directory, files };
}

/** Of a test that passed after it had failed. */
export function dropEvidence(place: TestPlace): void {
  rmSync(evidenceDirectory(place), { recursive: true, force: true });
}

/** What runs this test alone, with the same faults, on the same kernel. */
export function repeatLine(
  { file, name, project }: TestPlace,
  seed: number,
  env = process.env,
): string {
  const pattern = quoted(`^${name.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&')}$`);
  const path = quoted(relative(process.cwd(), file));
  const seedText = `0x${seed.toString(16).padStart(8, '0')}`;
  const kernel = env.SEALBUS_KERNEL ? quoted(env.SEALBUS_KERNEL) : undefined;
  if (env.SEALBUS_TEST) {
    const on = kernel === undefined ? '' : ` --kernel ${kernel}`;
    const of = project ? ` -- --project ${quoted(project)}` : '';
    return `npx sealbus test${on} --seed ${seedText} ${path} -t ${pattern}${of}`;
  }
  const on = kernel === undefined ? '' : `SEALBUS_KERNEL=${kernel} `;
  const of = project ? ` --project ${quoted(project)}` : '';
  return `SEALBUS_SEED=${seedText} ${on}npx vitest run${of} ${path} -t ${pattern}`;
}

/** The nearest directory above with a package.json; else the file's own. */
function projectOf(file: string): string {
  for (let at = dirname(file); ; at = dirname(at)) {
    if (existsSync(join(at, 'package.json'))) return at;
    if (at === dirname(at)) return dirname(file);
  }
}

function prune(base: string): void {
  const all = readdirSync(base, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map(({ name }) => join(base, name))
    .map((path) => ({ path, at: statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0 }))
    .sort((a, b) => b.at - a.at);
  for (const { path } of all.slice(keptMax)) rmSync(path, { recursive: true, force: true });
}

function slug(text: string): string {
  return text
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '')
    .slice(0, nameMax);
}

function quoted(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", "'\\''")}'`;
}
