import { join } from 'node:path';
import { expect, it } from 'vitest';
import { repeatLine } from '../../../src/testkit/evidence.ts';

const file = join(process.cwd(), 'test/a device.test.ts');

it('runs that test alone, by its seed', () => {
  expect(repeatLine({ file, name: 'the ring > is full (16)' }, 0x1a2b, {})).toBe(
    "SEALBUS_SEED=0x00001a2b npx vitest run 'test/a device.test.ts' -t '^the ring > is full \\(16\\)$'",
  );
  expect(
    repeatLine({ file, name: 'sums', project: 'guest' }, 1, { SEALBUS_KERNEL: './my linux' }),
  ).toBe(
    "SEALBUS_SEED=0x00000001 SEALBUS_KERNEL='./my linux' npx vitest run --project guest " +
      "'test/a device.test.ts' -t '^sums$'",
  );
});

it('under sealbus test it is a line of sealbus test', () => {
  const env = { SEALBUS_TEST: '1', SEALBUS_KERNEL: 'trixie-backports' };
  expect(repeatLine({ file, name: 'sums' }, 0xffffffff, env)).toBe(
    "npx sealbus test --kernel trixie-backports --seed 0xffffffff 'test/a device.test.ts' -t '^sums$'",
  );
  expect(repeatLine({ file, name: 'sums', project: 'guest' }, 1, { SEALBUS_TEST: '1' })).toMatch(
    / -t '\^sums\$' -- --project guest$/,
  );
});
