/** `sealbus test` that is interrupted while a guest runs: no process and no mount is left. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import { RunPlace, repository, until } from '../protocol/cli/sealbus.ts';

const place = new RunPlace();
let project: string;
beforeAll(async () => {
  await ensureParts();
  project = mkdtempSync(join(tmpdir(), 'sealbus-project-'));
  mkdirSync(join(project, 'node_modules'));
  symlinkSync(repository, join(project, 'node_modules/sealbus'));
  writeFileSync(
    join(project, 'long.test.ts'),
    `import { test } from 'sealbus/vitest';
    import { Adder } from ${JSON.stringify(join(repository, 'examples/adder/adder.ts'))};
    test.use({ device: () => new Adder() });
    test('waits', async ({ guest }) => {
      console.log(await guest.sh('echo it runs'));
      await guest.sh('sleep 600', { timeoutMs: 600_000 });
    });
    `,
  );
}, 600_000);
afterAll(() => {
  place[Symbol.dispose]();
  rmSync(project, { recursive: true, force: true });
});

it.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)('%s', async (signal, code) => {
  const running = place.start(['test'], { cwd: project, stdin: 'open' });
  await running.said(/it runs/);
  expect(place.qemu).toBeGreaterThan(0);
  running.child.kill(signal);
  expect((await running.ended).code).toBe(code);
  const gone = () => place.processes.length === 0 && place.mounts.length === 0;
  await until(gone, 15_000, 'no process and no mount left');
});
