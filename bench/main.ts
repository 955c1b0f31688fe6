/**
 * `npm run bench -- [--json] [PART …] [--quick] [--cpus N]`: each
 * figure beside its peer, in one run, as ratios of medians of interleaved rounds. Without names all but nvme, which
 * takes several times as long as the others together, and a Debian. Progress goes to stderr; stdout has
 * the result, with --json one object and nothing else.
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
import { benchGuestTests } from './guest-tests.ts';
import { machineFacts } from './machine-facts.ts';
import { benchMemory } from './memory.ts';
import { benchNvme, type NvmeBenchOptions } from './nvme.ts';
import { barsOf, type Key, printReport, type Report } from './report.ts';
import { benchRotation } from './rotation.ts';
import { benchRotationFio } from './rotation-fio.ts';
import { benchTrace } from './trace.ts';
import { benchVms } from './vms.ts';
import { benchXtsBesideC } from './xts-comparison.ts';

type Benchmark = (context: BenchContext, options: Options) => Promise<Report>;

const BENCHMARKS: Readonly<Record<string, Benchmark>> = {
  mmio: (context) => benchGuestMmio(context),
  xts: async () => ({ xts: await benchXtsBesideC() }),
  dma: async (context) => ({ dma: await benchDma(context) }),
  vms: async (context) => ({ vms: await benchVms(context) }),
  boot: async (context) => ({ boot: await benchBoot(context) }),
  memory: async (context) => ({ memory: await benchMemory(context) }),
  rotation: async (context) => ({ rotation: await benchRotation(context) }),
  trace: async (context) => ({ trace: await benchTrace(context) }),
  'guest-tests': async (context) => ({ guestTests: await benchGuestTests(context) }),
  nvme: async (context, options) => ({ nvme: await benchNvme(context, options) }),
  'rotation-fio': async (context) => ({ rotationFio: await benchRotationFio(context) }),
};
/** What a run without names leaves out. */
const BY_NAME_ONLY: readonly string[] = ['nvme', 'rotation-fio'];
/** The keys of the result that a benchmark fills. */
const KEYS: Readonly<Record<string, readonly Key[]>> = {
  mmio: ['mmioRead', 'doorbellToInterrupt'],
  xts: ['xts'],
  dma: ['dma'],
  vms: ['vms'],
  boot: ['boot'],
  memory: ['memory'],
  rotation: ['rotation'],
  trace: ['trace'],
  'guest-tests': ['guestTests'],
  nvme: ['nvme'],
  'rotation-fio': ['rotationFio'],
};

const MISSED = 1;
const FAILED = 2;

async function main(): Promise<number> {
  const chosen = options();
  const { json, only } = chosen;
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
        Object.assign(report, await BENCHMARKS[name]?.({ parts, say, signal }, chosen));
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

interface Options extends NvmeBenchOptions {
  readonly json: boolean;
  readonly only: readonly string[];
}

function options(): Options {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'boolean', default: false },
      only: { type: 'string' },
      quick: { type: 'boolean', default: false },
      cpus: { type: 'string', default: '1' },
    },
  });
  const names = Object.keys(BENCHMARKS);
  const asked = [...(values.only?.split(',') ?? []), ...positionals];
  const only = asked.length > 0 ? asked : names.filter((name) => !BY_NAME_ONLY.includes(name));
  const unknown = only.find((name) => !names.includes(name));
  if (unknown !== undefined) {
    throw new Error(`expected some of ${names.join(',')}, got ${unknown}`);
  }
  const cpus = Number(values.cpus);
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > 64) {
    throw new Error(`expected --cpus with 1 to 64 virtual CPUs, got ${values.cpus}`);
  }
  return { json: values.json, only, quick: values.quick, cpus };
}

try {
  process.exitCode = await main();
} catch (error) {
  const code = exitCodeOf(error);
  process.exitCode = code === 1 ? FAILED : code;
}
