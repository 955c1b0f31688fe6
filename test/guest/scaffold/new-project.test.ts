/** A project as `sealbus init` makes it passes as made: with npm, and by the lines of its CI file. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { UserShell } from '../user-shell.ts';

let user: UserShell;
beforeAll(async () => {
  await ensureParts();
  user = new UserShell();
}, 600_000);
afterAll(() => user?.[Symbol.dispose]());

/** Runs a line of shell. @returns what it said */
async function shell(line: string, { env = {}, code = 0 } = {}): Promise<string> {
  const outcome = await user.run(line, env);
  expect(outcome.code, `${line}\n${outcome.said}`).toBe(code);
  return outcome.said;
}

it('sealbus init && npm install && npm test', async () => {
  await shell('sealbus init first-device');
  await shell('cd first-device');
  await shell('npm install');
  expect(await shell('npm test')).toMatch(/Test Files +2 passed \(2\)/);
  expect(existsSync(join(user.directory, '.sealbus/failures'))).toBe(false);
});

it('its types hold', async () => {
  await shell('npm run check');
});

it('npx vitest --shard runs a part of it', async () => {
  const shards = await Promise.all(
    ['1/2', '2/2'].map((shard) => shell(`npx vitest list --filesOnly --shard ${shard}`)),
  );
  const names = shards.flatMap((said) => said.split('\n'));
  expect(names.map((name) => name.replace(/.*\//, '')).sort()).toEqual([
    'first_device.client.test.ts',
    'first_device.guest.test.ts',
  ]);
});

it('the lines of its CI file run as they stand', async () => {
  const workflow = user.read('.github/workflows/test.yml');
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
  expect(user.read('out/junit.xml')).toMatch(
    /<testsuites [^>]*tests="[1-9]\d*" failures="0" errors="0"/,
  );
  expect(readdirSync(join(user.directory, 'out/failures'))).toEqual([]);
});

it('a driver that does not build is told by file and line', async () => {
  await shell("sed -i 's/return IRQ_HANDLED;/return IRQ_HANDLED/' driver/first_device.c");
  const said = await shell("npm test -- guest -t 'sums'", { code: 1 });
  expect(said).toMatch(/driver\/first_device\.c:\d+:\d+: error: expected .;./);
});
