/** The adder's driver, as an author would test it: docs/driver-tests.md. */
import { expect, test } from 'sealbus/vitest';
import { Adder } from '../../../examples/adder/adder.ts';

test.use({
  device: () => new Adder(),
  module: '../../../qemu/adder/adder.c',
  programs: ['../../../qemu/adder/adder-sum.c'],
  files: { '/root/twelve': 'twelve bytes' },
});

test('sums a buffer', async ({ guest, device }) => {
  expect(await guest.sh('adder-sum /root/twelve')).toBe('1246');
  expect(device).toHaveDma({ direction: 'read', bytes: 12, encrypted: true, times: 1 });
  expect(device).toHaveRaised(0);
  expect(device).toHaveWritten('length', 12);
  expect(device).toHaveWritten('control', { go: true }, { times: 1 });
  expect(device).toHaveRead('control', { done: true, error: false });
  expect(device).not.toHaveFault();
});

test('gets on without an interrupt', async ({ guest, device, faults }) => {
  const lost = faults.arm('interrupt.lose', { nth: 1 });
  expect(await guest.sh('adder-sum /root/twelve')).toBe('1246');
  expect(lost.struck).toBe(1);
  expect(device).not.toHaveRaised();
  expect(await guest.dmesg()).toContain('no interrupt within 2 s');
});

test.describe('behind an IOMMU', () => {
  test.use({ iommu: 'virtio' });

  test('has nothing mapped once its driver is gone', async ({ guest, device }) => {
    expect(await guest.sh('adder-sum /root/twelve')).toBe('1246');
    await guest.rmmod('adder');
    expect(device).toHaveDma({ bytes: 12, encrypted: true });
    expect(device).toHaveNoMappingsLeft();
  });
});

test('sums without a guest', async ({ client, device }) => {
  const buffer = client.memory.allocate(Uint8Array.of(1, 2, 3));
  await client.bar0.write('source', buffer.gpa);
  await client.bar0.write('length', buffer.length);
  await client.bar0.write('control', { go: true });
  await client.interrupt(0).next();
  expect(await client.bar0.read('sum')).toBe(6);
  expect(device).toHaveDma({ direction: 'read', bytes: 3 });
});
