/** A guest that is up until somebody ends vitest. */
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'sealbus/vitest';
import { Adder } from '../../../../examples/adder/adder.ts';

test.use({ device: () => new Adder() });

test('sleeps', async ({ guest }) => {
  const up = join(dirname(process.env.SEALBUS_ARTIFACTS ?? ''), 'up');
  setTimeout(() => writeFileSync(up, ''), 500);
  await guest.sh('sleep 1000', { timeoutMs: 1_000_000 });
});
