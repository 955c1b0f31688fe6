/** A project as `sealbus init` makes it passes as made: with npm, and by the lines of its CI file. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';

const sealbus = fileURLToPath(new URL('../../../scripts/sealbus.mjs', import.meta.url));

let scratch: string;
let project: string;
beforeAll(async () => {
  await ensureParts();
  scratch = mkdtempSync(join(tmpdir(), 'sealbus-project-'));
  project = join(scratch, 'first-device');
}, 600_000);
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** As a user's shell has it: without what npm or we have put there. */
function environment(more: Readonly<Record<string, string>> = {}) {
  const own = Object.entries(process.env).filter(
    ([name]) => !/^(npm_|VITEST|NODE_|SEALBUS_|TEST$|DEV$|PROD$|MODE$|SSR$)/.test(name),
  );
  const path = (process.env.PATH ?? '')
    .split(delimiter)
    .filter((directory) => !directory.includes('node_modules'));
  return {
    ...Object.fromEntries(own),
    PATH: path.join(delimiter),
    // What is in npm's cache was fetched for sealbus itself.
    npm_config_prefer_offline: 'true',
    ...more,
  };
}

/** Runs a line of shell. @throws with all that it said where its exit code is another */
async function shell(
  line: string,
  { cwd = project, env = {}, code = 0 }: ShellOptions = {},
): Promise<string> {
  const child = spawn('sh', ['-ec', line], {
    cwd,
    env: environment(env),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
  }
  const got = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  expect(got, `${line}\n${said}`).toBe(code);
  return said;
}

interface ShellOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly code?: number;
}

it('sealbus init && npm install && npm test', async () => {
  await shell(`node '${sealbus}' init first-device`, { cwd: scratch });
  await shell('npm install');
  const said = await shell('npm test');
  expect(said).toMatch(/Test Files +2 passed \(2\)/);
  expect(existsSync(join(project, '.sealbus/failures'))).toBe(false);
});

it('its types hold', async () => {
  await shell('npm run check');
});

it('npx vitest --shard runs a part of it', async () => {
  const shards = await Promise.all([
    shell('npx vitest list --filesOnly --shard 1/2'),
    shell('npx vitest list --filesOnly --shard 2/2'),
  ]);
  const names = shards.flatMap((said) => said.trim().split('\n'));
  expect(names.map((name) => name.replace(/.*\//, '')).sort()).toEqual([
    'first_device.client.test.ts',
    'first_device.guest.test.ts',
  ]);
});

it('the lines of its CI file run as they stand', async () => {
  const workflow = readFileSync(join(project, '.github/workflows/test.yml'), 'utf8');
  const lines = [...workflow.matchAll(/^ +(?:- )?run: (np[mx] .*)$/gm)]
    .map(([, line = '']) => line)
    .filter((line) => !line.startsWith('npm pkg set'));
  expect(lines.map((line) => line.split(' ').slice(0, 3).join(' '))).toEqual([
    'npm install',
    'npx sealbus setup',
    'npm test --',
  ]);
  const kernels = /kernel: \[(.*)\]/.exec(workflow)?.[1]?.split(', ');
  const shards = /shard: \[(.*)\]/.exec(workflow)?.[1]?.split(', ');
  expect([kernels, shards]).toEqual([
    ['trixie', 'trixie-backports'],
    ['1/2', '2/2'],
  ]);
  const env = { KERNEL: 'trixie', SHARD: '1/2' };
  for (const line of lines) await shell(line, { env });
  expect(readFileSync(join(project, 'out/junit.xml'), 'utf8')).toMatch(
    /<testsuites [^>]*tests="[1-9]\d*" failures="0" errors="0"/,
  );
  expect(readdirSync(join(project, 'out/failures'))).toEqual([]);
});

it('a driver that is broken is seen, by name, line and exit code', async () => {
  const driver = 'driver/first_device.c';
  await shell(`sed -i 's/return IRQ_HANDLED;/return IRQ_HANDLED/' ${driver}`);
  const said = await shell("npm test -- guest -t 'sums'", { code: 1 });
  expect(said).toMatch(/driver\/first_device\.c:\d+:\d+: error: expected .;./);
});
