/**
 * What `npm test` runs: the linter, the type check, then the three levels of tests in turn, each
 * whether or not the one before it held. Arguments go to vitest. What cannot run here is named.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ensureParts } from '../src/setup/ensure-parts.ts';
import { findProgram } from '../src/setup/host-programs.ts';
import { renderProgress } from '../src/setup/progress.ts';
import { SetupError } from '../src/setup/setup-error.ts';

const root = dirname(import.meta.dirname);
const binaries = join(root, 'node_modules/.bin');
const levels = ['unit', 'protocol', 'guest'] as const;
type Level = (typeof levels)[number];

const say = (words: string) => process.stderr.write(`test: ${words}\n`);

process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  const failed: string[] = [];
  if (args.length === 0) {
    if ((await run('biome', ['check', '.'])) !== 0) failed.push('lint');
    if ((await run('tsc', ['--noEmit'])) !== 0) failed.push('type check');
  }
  const { runnable, broken } = await preparedLevels();
  if (broken) failed.push('set-up');
  for (const level of levels) {
    if (!runnable.includes(level)) continue;
    // With arguments a level may well have nothing that they choose.
    const more = args.length === 0 ? [] : ['--passWithNoTests', ...args];
    if ((await run('vitest', ['run', '--project', level, ...more])) !== 0) failed.push(level);
  }
  if (failed.length === 0) return 0;
  say(`FAILED: ${failed.join(', ')}`);
  return 1;
}

/** Units need npm's packages alone; the other two need what set-up brings. */
async function preparedLevels(): Promise<{ runnable: readonly Level[]; broken: boolean }> {
  const { event, end } = renderProgress();
  try {
    await ensureParts({ progress: event });
    return { runnable: levels, broken: false };
  } catch (error) {
    end();
    if (!(error instanceof SetupError)) throw error;
    const unable = whyHostCannot();
    say(unable ? `this host cannot run a guest: ${unable}` : error.message);
    say('SKIPPED: the protocol level and the guest level did not run');
    return { runnable: ['unit'], broken: unable === undefined };
  } finally {
    end();
  }
}

/** Why set-up can never work here; undefined where it should have. */
function whyHostCannot(): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    return `it is ${process.platform} on ${process.arch}, expected Linux on x86-64`;
  }
  const apt = ['apt-get', 'dpkg-deb'].filter((name) => findProgram(name) === undefined);
  return apt.length > 0
    ? `it has no ${apt.join(', no ')} to fetch QEMU and a kernel with`
    : undefined;
}

function run(name: string, args: readonly string[]): Promise<number> {
  const program = join(binaries, name);
  if (!existsSync(program)) {
    throw new Error(
      `expected ${program}, got nothing there. Run 'node scripts/bootstrap.mjs' in ${root}.`,
    );
  }
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: root, stdio: 'inherit' });
    const onTerminate = () => child.kill('SIGTERM');
    const onInterrupt = () => {}; // the terminal sent it to the child too
    process.on('SIGTERM', onTerminate).on('SIGINT', onInterrupt);
    child.once('error', reject);
    child.once('close', (code, signal) => {
      process.off('SIGTERM', onTerminate).off('SIGINT', onInterrupt);
      if (signal === 'SIGINT' || signal === 'SIGTERM' || code === 130) process.exit(130);
      resolve(code ?? 1);
    });
  });
}
