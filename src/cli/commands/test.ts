import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { kernelVariable } from '../../setup/kernel-choice.ts';
import { runChild } from '../child-command.ts';
import { interruptible } from '../interruption.ts';
import { kernelOption } from '../kernel-option.ts';
import {
  defaultConfig,
  findVitest,
  hasConfig,
  type ReportKind,
  reporterFlags,
  reportKinds,
  tapFileVariable,
} from '../vitest.ts';
import { readyParts } from './setup.ts';

interface TestFlags {
  readonly kernel?: string;
  readonly seed?: number;
  readonly shard?: string;
  readonly testNamePattern?: string;
  readonly artifacts?: string;
  readonly reporter?: ReportKind;
  readonly tap?: boolean;
  readonly json?: boolean;
  readonly junit?: string;
}

/** Tells `sealbus/vitest` how a failure is repeated: by this command. */
const TEST_VARIABLE = 'SEALBUS_TEST';
/** `sealbus/vitest` draws faults from it, and names it in a failure. */
const SEED_VARIABLE = 'SEALBUS_SEED';
/** `sealbus/vitest` keeps the evidence of failures there. */
const ARTIFACTS_VARIABLE = 'SEALBUS_ARTIFACTS';
const SEED_MAX = 0xffff_ffff;
const EXIT_NO_REPORT = 1;

export function testCommand(): Command {
  return new Command('test')
    .description('run tests of devices and drivers with vitest')
    .usage('[options] [files...] [-- flags of vitest]')
    .argument('[files...]', 'parts of the names of test files (default: all of the project’s)')
    .addOption(kernelOption())
    .option('--seed <n>', 'draw faults from this seed, as a failure names it', parseSeed)
    .option('--shard <i/n>', 'run the i-th of n parts of the files', parseShard)
    .option('-t, --test-name-pattern <pattern>', 'run tests with such names alone')
    .option('--artifacts <directory>', 'keep the evidence of failures there')
    .addOption(new Option('--reporter <which>', 'what stdout gets').choices(reportKinds))
    .option('--tap', 'the same as --reporter tap')
    .option('--json', 'the same as --reporter json')
    .option('--junit <file>', 'write a JUnit report too')
    .addHelpText(
      'after',
      '\nA project’s own vitest and configuration are taken where it has them. Where stdout gets a report' +
        '\nfor machines, it gets nothing else: people find theirs on stderr.' +
        '\n\nExit code: 0 only where there were tests and all of them held.',
    )
    .action(async (words: string[], flags: TestFlags) => {
      process.exitCode = await test(words, flags);
    });
}

async function test(words: readonly string[], flags: TestFlags): Promise<number> {
  const kind = chosenReport(flags);
  const project = process.cwd();
  const vitest = findVitest(project);
  const junit = flags.junit === undefined ? undefined : resolve(flags.junit);
  const artifacts = flags.artifacts === undefined ? undefined : madeDirectory(flags.artifacts);
  await interruptible((signal) => readyParts(signal, flags.kernel));
  const forMachines = kind === 'tap' || kind === 'json' || kind === 'junit';
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-report-'));
  try {
    const report = join(directory, 'report');
    const args = [
      ...(hasConfig(project) ? [] : ['--config', defaultConfig]),
      ...reporterFlags(kind, report, junit),
      ...(flags.shard === undefined ? [] : [`--shard=${flags.shard}`]),
      ...(flags.testNamePattern === undefined ? [] : ['-t', flags.testNamePattern]),
      ...words,
    ];
    const code = await runChild(
      [process.execPath, ...process.execArgv, vitest, 'run', ...args],
      {
        [TEST_VARIABLE]: '1',
        ...plainWherePiped(forMachines ? process.stderr : process.stdout),
        ...(flags.kernel === undefined ? {} : { [kernelVariable]: flags.kernel }),
        ...(flags.seed === undefined ? {} : { [SEED_VARIABLE]: String(flags.seed) }),
        ...(artifacts === undefined ? {} : { [ARTIFACTS_VARIABLE]: artifacts }),
        ...(kind === 'tap' ? { [tapFileVariable]: report } : {}),
      },
      forMachines ? 'stderr' : 'stdout',
    );
    return forMachines && !printed(report) ? code || EXIT_NO_REPORT : code;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** @throws Error where stdout would get two reports */
function chosenReport({ reporter, tap, json }: TestFlags): ReportKind | undefined {
  const asked = new Set<ReportKind>([
    ...(reporter === undefined ? [] : [reporter]),
    ...(tap ? (['tap'] as const) : []),
    ...(json ? (['json'] as const) : []),
  ]);
  const [kind, ...more] = asked;
  if (more.length === 0) return kind;
  throw new Error(`expected one report on stdout, got ${[...asked].join(' and ')}`);
}

/** vitest colours what it writes into a pipe, unless it is told not to. */
function plainWherePiped(stream: NodeJS.WriteStream): Record<string, string> {
  const { FORCE_COLOR, CI } = process.env;
  return stream.isTTY || FORCE_COLOR !== undefined || CI !== undefined ? {} : { NO_COLOR: '1' };
}

/** Puts a file's content on stdout. @returns whether there is one */
function printed(file: string): boolean {
  try {
    process.stdout.write(readFileSync(file));
    return true;
  } catch {
    process.stderr.write('sealbus: vitest wrote no report\n');
    return false;
  }
}

/** @throws Error where it cannot be made */
function madeDirectory(path: string): string {
  try {
    mkdirSync(path, { recursive: true });
    return resolve(path);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(`expected a directory for artifacts at ${path}, got ${why}`);
  }
}

function parseSeed(text: string): number {
  const seed = Number(text);
  if (/^(\d+|0x[\da-f]+)$/i.test(text) && seed <= SEED_MAX) return seed;
  throw new InvalidArgumentError('expected a seed of 32 bits, such as 0x1a2b3c4d');
}

function parseShard(text: string): string {
  const [, index = 0, count = 0] = (/^(\d+)\/(\d+)$/.exec(text) ?? []).map(Number);
  if (index >= 1 && index <= count) return text;
  throw new InvalidArgumentError('expected I/N, from 1/N to N/N');
}
