/**
 * The tests that the part `guest-tests` times: the same driver test by each way to get a guest, and one
 * without a guest, in interleaved rounds of which the first warms up.
 */
import { describe, expect, test } from 'sealbus/vitest';
import { Adder } from '../../examples/adder/adder.ts';
import { roundsOf } from './rounds.ts';

test.use({
  device: () => new Adder(),
  module: '../../qemu/adder/adder.c',
  programs: ['../../qemu/adder/adder-sum.c'],
  files: { '/root/twelve': 'twelve bytes' },
});

const guests = {
  sealed: { memory: 'sealed' },
  plain: { memory: 'plain' },
  'sealed, virtio-iommu': { memory: 'sealed', iommu: 'virtio' },
  'sealed, booted': { memory: 'sealed', start: 'boot' },
} as const;

for (let round = 0; round <= roundsOf(process.env); round++) {
  describe(`round ${round}`, () => {
    for (const [name, options] of Object.entries(guests)) {
      describe(name, () => {
        test.use(options);
        test('sums a buffer', async ({ guest, device }) => {
          expect(await guest.sh('adder-sum /root/twelve')).toBe('1246');
          expect(device).toHaveDma({ direction: 'read', bytes: 12 });
          expect(device).toHaveRaised(0);
        });
      });
    }
    describe('client', () => {
      test('sums a buffer', async ({ client, device }) => {
        const buffer = client.memory.allocate(Buffer.from('twelve bytes'));
        await client.bar0.write('source', buffer.gpa);
        await client.bar0.write('length', buffer.length);
        await client.bar0.write('control', { go: true });
        await client.interrupt(0).next();
        expect(await client.bar0.read('sum')).toBe(1246);
        expect(device).toHaveDma({ direction: 'read', bytes: 12 });
      });
    });
  });
}
