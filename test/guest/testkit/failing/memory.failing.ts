/** For a host that cannot seal memory. */
import { describe, expect, test } from 'sealbus/vitest';
import { Adder } from '../../../../examples/adder/adder.ts';

test.use({ device: () => new Adder() });

test('takes plain memory', async ({ guest, machine }) => {
  expect(machine.mode).toBe('plain');
  expect(await guest.sh('echo up')).toBe('up');
});

describe('insisting', () => {
  test.use({ memory: 'sealed' });
  test('fails', async ({ guest }) => {
    await guest.sh('true');
  });
});
