/** The adder's driver, as an author would test it: docs/driver-tests.md. */
import { expect, test } from 'sealbus/vitest';
import { Adder } from '../../../examples/adder/adder.ts';

test.use({
  device: () => new Adder(),
  module: '../../../qemu/adder/adder.c',
  programs: ['../../../qemu/adder/adder-sum.c'],
});

test('sums a buffer', async ({ guest }) => {
  const bytes = await guest.read('/etc/hostname');
  const sum = bytes.reduce((a, b) => a + b);
  expect(await guest.sh('adder-sum /etc/hostname')).toBe(`${sum}`);
});
