/** Ten known bugs of drivers, planted in edu's: each is caught by its test, and the good driver passes all ten. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type PlantedBugName, plantedBugs } from './planted-bugs.ts';

/** What the failure has to say, so that it is the bug that was caught. */
const told: Readonly<Record<PlantedBugName, RegExp>> = {
  'missing dma_sync': /cmp: EOF|differ: char 1/,
  'DMA after unmap': /not to have had a DMA refused, as unmapped, got 1/,
  'wrong mask': /expected 1 to be \+?0/,
  'missed interrupt': /write error: Connection timed out/,
  'use after free on unbind': /general protection fault|exit code 139/,
  'unchecked all-ones': /to contain 'No such device'/,
  'wrong endianness': /register dmaCount written, with 0x200, got 0/,
  'doorbell before the descriptor is written': /to have made a DMA, a read, of 512 bytes.*got 0/,
  'leak of a mapping': /to have no mappings left, got 1/,
  'sleeping in the interrupt handler': /scheduling while atomic/,
};

interface TestResult {
  readonly fullName: string;
  readonly status: string;
  readonly failureMessages: readonly string[];
}

const root = join(import.meta.dirname, '../../..');
const timeoutMs = 900_000;
const place = mkdtempSync(join(tmpdir(), 'sealbus-bugs-'));
let results: readonly TestResult[];

beforeAll(async () => {
  const file = join(place, 'results.json');
  const config = join(import.meta.dirname, 'vitest.config.ts');
  const words = [
    'run',
    '--root',
    root,
    '--config',
    config,
    '--reporter=json',
    '--outputFile',
    file,
  ];
  const child = spawn(join(root, 'node_modules/.bin/vitest'), words, {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, SEALBUS_ARTIFACTS: join(place, 'failures') },
  });
  const code = await new Promise((resolve, reject) => {
    child.once('close', resolve).once('error', reject);
  });
  expect(code, 'half of the tests are to fail').toBe(1);
  const report: { testResults: { assertionResults: TestResult[] }[] } = JSON.parse(
    readFileSync(file, 'utf8'),
  );
  results = report.testResults.flatMap(({ assertionResults }) => assertionResults);
}, timeoutMs);
afterAll(() => rmSync(place, { recursive: true, force: true }));

const outcome = (name: string) => results.find(({ fullName }) => fullName === name);

it.each(Object.keys(plantedBugs) as PlantedBugName[])('%s', (bug) => {
  const good = outcome(`good ${bug}`);
  expect(good?.status, good?.failureMessages.join('\n')).toBe('passed');
  const planted = outcome(`planted ${bug}`);
  expect(planted?.status).toBe('failed');
  expect(planted?.failureMessages.join('\n')).toMatch(told[bug]);
});
