/**
 * Ten tests of a driver, each for a bug that drivers are known for. They run on the edu driver as it is,
 * which passes all ten, and on one with that bug planted, which must not: known-bugs.test.ts.
 */

import { type DriverFixtures, describe, expect, type TestGuest, test } from 'sealbus/vitest';
import { afterAll } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import type { DriverTestOptions } from '../../../src/testkit/test-options.ts';
import { type EduSources, eduSources } from './edu-sources.ts';
import { type PlantedBugName, plantedBugs } from './planted-bugs.ts';

const sources = new DisposableStack();
afterAll(() => sources.dispose());

/** The same test on the good driver and on the one with the bug. */
function hunt(
  bug: PlantedBugName,
  options: Omit<DriverTestOptions<Edu>, 'module' | 'device'>,
  body: (fixtures: DriverFixtures<Edu>) => Promise<void>,
): void {
  const drivers = { good: eduSources(undefined), planted: eduSources(plantedBugs[bug]) };
  for (const [driver, source] of Object.entries<EduSources>(drivers)) {
    sources.use(source);
    describe(driver, () => {
      test.use({
        ...options,
        device: () => new Edu(),
        // A good driver waits for no interrupt so long, and a bad one's test is not to take ten seconds.
        module: { source: source.folder, parameters: { timeout_ms: 1000 } },
      });
      onEdu(bug, body);
    });
  }
}
const onEdu = test.use({ device: () => new Edu() });

/** Behind the IOMMU each DMA must be mapped at its time; strict: what is unmapped is so at once. */
const behindIommu = { iommu: 'virtio', kernelArguments: ['iommu.strict=1'] } as const;

/** 512 bytes to the device and back, with others between, so that no old copy is taken for them. */
async function roundTrip(guest: TestGuest): Promise<void> {
  await guest.sh('head -c 512 /dev/urandom > /a; head -c 512 /dev/urandom > /b');
  await guest.sh('dd if=/a of=/dev/edu0 bs=512; dd if=/b of=/dev/edu0 bs=512 seek=4');
  await guest.sh('dd if=/dev/edu0 bs=512 count=1 | cmp - /a');
}

hunt('missing dma_sync', { kernelArguments: ['swiotlb=force'] }, async ({ guest }) => {
  // Bounced as where a device does not reach all of memory: only a sync brings its bytes to the CPU.
  await roundTrip(guest);
});

hunt('DMA after unmap', behindIommu, async ({ guest, device }) => {
  await guest.try('dd if=/dev/zero of=/dev/edu0 bs=512 count=1');
  expect(device).not.toHaveFault({ reason: 'unmapped' });
});

hunt('wrong mask', behindIommu, async ({ guest, device }) => {
  await guest.try('dd if=/dev/zero of=/dev/edu0 bs=512 count=1');
  expect(device.dmaCounters.clamped).toBe(0);
});

hunt('missed interrupt', {}, async ({ guest }) => {
  // Two causes come with one interrupt.
  await guest.sh('echo 0x101 > /sys/bus/pci/devices/0000:00:04.0/raise');
});

hunt('use after free on unbind', { kernelArguments: ['slub_debug=FP'] }, async ({ guest }) => {
  const unbind = 'echo 0000:00:04.0 > /sys/bus/pci/drivers/sealbus_edu/unbind';
  await guest.sh(`exec 3<> /dev/edu0; ${unbind}; exec 3>&-`);
});

hunt('unchecked all-ones', {}, async ({ guest, faults }) => {
  faults.arm('register.all-ones', { nth: 1 });
  const { stderr } = await guest.try('dd if=/dev/zero of=/dev/edu0 bs=512 count=1');
  expect(stderr).toContain('No such device');
});

hunt('wrong endianness', {}, async ({ guest, device }) => {
  await guest.try('dd if=/dev/zero of=/dev/edu0 bs=512 count=1');
  expect(device).toHaveWritten('dmaCount', 512);
});

hunt('doorbell before the descriptor is written', {}, async ({ guest, device }) => {
  await guest.try('dd if=/dev/zero of=/dev/edu0 bs=512 count=1');
  expect(device).toHaveDma({ direction: 'read', bytes: 512, encrypted: true });
});

hunt('leak of a mapping', behindIommu, async ({ guest, device }) => {
  await guest.sh('dd if=/dev/zero of=/dev/edu0 bs=512 count=1; rmmod sealbus_edu');
  expect(device).toHaveNoMappingsLeft();
});

hunt('sleeping in the interrupt handler', {}, async ({ guest }) => {
  await guest.sh('dd if=/dev/zero of=/dev/edu0 bs=512 count=1');
});
