/** The driver and the device together, in a guest that Linux runs. */
import { crc32 } from 'node:zlib';
import { expect, test } from 'sealbus/vitest';
import { WidgetDevice } from '../src/widget.ts';

test.use({ device: () => new WidgetDevice(), module: '../driver/widget.c' });

/** What the driver offers: a write is summed, a read gives the sum. */
const checksum = '/sys/bus/pci/devices/0000:00:04.0/checksum';

test('sums what is written', async ({ guest, device }) => {
  await guest.write(checksum, 'hello');
  expect(await guest.sh(`cat ${checksum}`)).toBe('3610a686');
  expect(device).toHaveDma({ direction: 'read', bytes: 5, times: 1 });
  expect(device).toHaveRaised(0);
  expect(device).not.toHaveFault();
});

test('goes on after an interrupt that got lost', async ({ guest, device, faults }) => {
  const lost = faults.arm('interrupt.lose', { nth: 1 });
  const page = Buffer.alloc(4096, 'sealbus');
  await guest.write(checksum, page);
  expect(lost.struck).toBe(1);
  expect(await guest.sh(`cat ${checksum}`)).toBe(crc32(page).toString(16).padStart(8, '0'));
  expect(device).toHaveRaised(0, { times: 0 });
});

test('says so when the device has left', async ({ guest, faults }) => {
  faults.arm('register.all-ones', { nth: 1 });
  await expect(guest.write(checksum, 'hello')).rejects.toThrow('No such device');
});

test.describe('behind an IOMMU', () => {
  test.use({ iommu: 'virtio' });

  test('unloads and leaves nothing mapped', async ({ guest, device }) => {
    await guest.write(checksum, 'hello');
    await guest.rmmod('widget');
    expect(device).toHaveDma({ direction: 'read', bytes: 5 });
    expect(device).toHaveNoMappingsLeft();
  });
});
