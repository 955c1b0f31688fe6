/**
 * What a driver test costs, all of it: machine, guest, driver, device, the test's own lines and the end.
 * A child vitest runs bench/guest-tests/ as an author would. `node bench/main.ts --only guest-tests`.
 *
 * The bars are absolute, so the ratios are to what a test may cost: the slowest of all rounds counts.
 * What stands beside a saved guest is the same test in a guest that boots.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runCommand } from '../src/setup/command.ts';
import type { BenchContext } from './bench-context.ts';
import { type Comparison, compare, median, rounded } from './figures.ts';
import { roundsVariable } from './guest-tests/rounds.ts';

const ROUNDS = 7;
const GUEST_MS = 3000;
const CLIENT_MS = 50;
const BAR = { atMost: 1 } as const;
const TIMEOUT_MS = 600_000;

const root = fileURLToPath(new URL('../', import.meta.url));

/** Milliseconds of one test, by round. */
export interface TestTimes {
  readonly name: string;
  readonly median_ms: number;
  readonly slowest_ms: number;
  readonly rounds_ms: readonly number[];
}

export interface GuestTestsResult extends Comparison {
  /** A test without a guest. */
  readonly client: Comparison;
  /** Saved guests to booted ones, by their medians. */
  readonly toBooted: Comparison;
  readonly times: readonly TestTimes[];
}

/** @throws Error where a test fails */
export async function benchGuestTests({ say, signal }: BenchContext): Promise<GuestTestsResult> {
  say(`${ROUNDS} rounds, and one to warm up`);
  const times = timesOf(await runTests(signal));
  const of = (name: string) => {
    const found = times.find((one) => one.name === name);
    if (found === undefined) throw new Error(`expected times of ${name}, got none`);
    return found;
  };
  const saved = ['sealed', 'plain', 'sealed, virtio-iommu'].map(of);
  const slowest = Math.max(...saved.map((one) => one.slowest_ms));
  return {
    ...compare(slowest, GUEST_MS, {
      ...{ peer: `the ${GUEST_MS} ms that a guest test may take`, bar: BAR, rounds: ROUNDS },
    }),
    client: compare(of('client').slowest_ms, CLIENT_MS, {
      ...{ peer: `the ${CLIENT_MS} ms that a client test may take`, bar: BAR, rounds: ROUNDS },
    }),
    toBooted: compare(of('sealed').median_ms, of('sealed, booted').median_ms, {
      ...{ peer: 'the same test in a guest that boots', rounds: ROUNDS },
    }),
    times,
  };
}

interface Report {
  readonly testResults: readonly {
    readonly assertionResults: readonly {
      readonly ancestorTitles: readonly string[];
      readonly status: string;
      readonly duration?: number;
      readonly failureMessages?: readonly string[];
    }[];
  }[];
}

async function runTests(signal: AbortSignal): Promise<Report> {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-guest-tests-'));
  try {
    const report = join(directory, 'report.json');
    const vitest = join(root, 'node_modules/vitest/vitest.mjs');
    const reporting = ['--reporter', 'json', '--outputFile', report];
    const args = [vitest, 'run', '--config', 'bench/guest-tests/vitest.config.ts', ...reporting];
    await runCommand(process.execPath, args, {
      ...{ cwd: root, timeout_ms: TIMEOUT_MS, signal, allowFailure: true },
      env: { [roundsVariable]: String(ROUNDS), SEALBUS_ARTIFACTS: join(directory, 'evidence') },
    });
    return JSON.parse(readFileSync(report, 'utf8')) as Report;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Of the rounds that count. @throws Error with what a failed test said */
function timesOf({ testResults }: Report): TestTimes[] {
  const rounds = new Map<string, number[]>();
  for (const { ancestorTitles, status, duration, failureMessages } of testResults.flatMap(
    ({ assertionResults }) => assertionResults,
  )) {
    const [round, name] = ancestorTitles;
    if (status !== 'passed' || duration === undefined || name === undefined) {
      throw new Error(`expected ${ancestorTitles.join(' > ')} to pass, got:\n${failureMessages}`);
    }
    if (round === 'round 0') continue;
    rounds.set(name, [...(rounds.get(name) ?? []), rounded(duration)]);
  }
  return [...rounds].map(([name, rounds_ms]) => ({
    ...{ name, median_ms: median(rounds_ms), slowest_ms: Math.max(...rounds_ms), rounds_ms },
  }));
}
