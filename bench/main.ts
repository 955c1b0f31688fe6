/**
 * `npm run bench -- [--json] [--only mmio,xts,dma,boot,memory]`: each figure beside its peer, in one
 * run, as ratios of medians of interleaved rounds. Progress goes to stderr; stdout has the result,
 * with --json one object and nothing else.
 *
 * Ends with 0 where everything was measured and every bar is met, 1 where a bar is missed, 2 where
 * something could not be measured.
 */
import { parseArgs } from 'node:util';
import { exitCodeOf } from '../src/cli/exit-code.ts';
import { interruptible } from '../src/cli/interruption.ts';
import { ensureParts } from '../src/setup/ensure-parts.ts';
import { renderProgress } from '../src/setup/progress.ts';
import type { BenchContext } from './bench-context.ts';
import { benchBoot } from './boot.ts';
import { benchDma } from './dma.ts';
import { benchGuestMmio } from './guest-mmio.ts';
import { machineFacts } from './machine-facts.ts';
import { benchMemory } from './memory.ts';
import { barsOf, type Key, printReport, type Report } from './report.ts';
import { benchXtsBesideC } from './xts-comparison.ts';

const BENCHMARKS: Readonly<Record<string, (context: BenchContext) => Promise<Report>>> = {
  mmio: (context) => benchGuestMmio(context),
  xts: async () => ({ xts: await benchXtsBesideC() }),
  dma: async (context) => ({ dma: await benchDma(context) }),
  boot: async (context) => ({ boot: await benchBoot(context) }),
  memory: async (context) => ({ memory: await benchMemory(context) }),
};
/** The keys of the result that a benchmark fills. */
const KEYS: Readonly<Record<string, readonly Key[]>> = {
  mmio: ['mmioRead', 'doorbellToInterrupt'],
  xts: ['xts'],
  dma: ['dma'],
  boot: ['boot'],
  memory: ['memory'],
};

const MISSED = 1;
const FAILED = 2;

async function main(): Promise<number> {
  const { json, only } = options();
  const progress = renderProgress();
  const began = performance.now();
  return await interruptible(async (signal) => {
    const parts = await ensureParts({ progress: progress.event, signal });
    progress.end();
    const machine = await machineFacts(parts);
    const report: Report = {};
    const errors: Partial<Record<Key, { ratio: null; error: string }>> = {};
    for (const name of only) {
      const say = (words: string) => void process.stderr.write(`bench: ${name}: ${words}\n`);
      say('begins');
      try {
        Object.assign(report, await BENCHMARKS[name]?.({ parts, say, signal }));
      } catch (error) {
        signal.throwIfAborted();
        const words = error instanceof Error ? error.message : String(error);
        say(`FAILED: ${words}`);
        for (const key of KEYS[name] ?? []) errors[key] = { ratio: null, error: words };
      }
    }
    const bars = barsOf(report);
    const failed = Object.keys(errors).length > 0;
    const met = !failed && bars.every((bar) => bar.met);
    if (json) {
      const seconds = Math.round((performance.now() - began) / 100) / 10;
      const result = { met, seconds, machine, ...report, ...errors, bars };
      process.stdout.write(`${JSON.stringify(result)}\n`);
    } else {
      printReport(machine, report, bars);
    }
    return failed ? FAILED : met ? 0 : MISSED;
  });
}

function options(): { json: boolean; only: readonly string[] } {
  const { values } = parseArgs({
    options: { json: { type: 'boolean', default: false }, only: { type: 'string' } },
  });
  const names = Object.keys(BENCHMARKS);
  const only = values.only?.split(',') ?? names;
  const unknown = only.find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw new Error(`expected --only with some of ${names.join(',')}, got ${unknown}`);
  }
  return { json: values.json, only };
}

try {
  process.exitCode = await main();
} catch (error) {
  const code = exitCodeOf(error);
  process.exitCode = code === 1 ? FAILED : code;
}
