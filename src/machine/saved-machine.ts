/**
 * Guests with a virtio-iommu that go on from a saved one. The guest has to find the IOMMU at its boot,
 * for its firmware's table is read once; but nothing of a vfio-user function is saved. So the guest lets
 * go of it before it is saved, and when it goes on finds another in its place, as after power-on.
 */
import { VirtioIommu } from '../devices/iommu/virtio-iommu.ts';
import { Iommu } from '../iommu/iommu.ts';
import { formatRequesterId } from '../pci/requester-id.ts';
import type { Parts } from '../setup/parts.ts';
import { viotTable } from '../vm/acpi/viot.ts';
import { type GuestOptions, planGuest } from '../vm/guest.ts';
import { dependsOn, type SavedForm } from '../vm/saved-guest.ts';
import { functionPlaces, imageWithVirtioIommu } from './guest-iommu.ts';
import { IOMMU_ADDRESS, Machine } from './machine.ts';
import { SlotRegister } from './slot-register.ts';

/** For {@link GuestOptions.resume} of a machine with a virtio-iommu and `lateFunctions`. */
export async function formWithIommu(
  parts: Parts,
  bytes: number,
  options: Pick<GuestOptions, 'cpus' | 'machine' | 'accelerator' | 'kernelArguments' | 'image'>,
): Promise<SavedForm> {
  const image = imageWithVirtioIommu(parts.kernel, options.image);
  const memory = { kind: 'memfd', bytes } as const;
  const { description } = await planGuest(parts, { ...options, image, memory });
  const { identity, bars, capabilities } = new VirtioIommu({
    iommu: new Iommu(new SlotRegister()),
  });
  const shape = JSON.stringify([
    identity,
    bars,
    capabilities.map(({ id, bytes }) => [id, ...bytes]),
  ]);
  const table = Buffer.from(viotTable(IOMMU_ADDRESS, functionPlaces)).toString('hex');
  return {
    dependsOn: [...dependsOn(parts.qemu, description), shape, table],
    beforeSaving: letGo,
    afterLoading: takeAgain,
    async boot(start) {
      const machine = await Machine.create({
        ...{ parts, bytes, memory: 'plain', iommu: 'virtio', lateFunctions: true },
        log: () => {}, // what a guest's first look at its bus meets is of no device under test
      });
      try {
        const vm = await machine.boot({ ...options, ...start });
        return { vm, [Symbol.asyncDispose]: () => machine[Symbol.asyncDispose]() };
      } catch (error) {
        await machine[Symbol.asyncDispose]();
        throw error;
      }
    },
  };
}

const address = formatRequesterId(IOMMU_ADDRESS);
const driver = '/sys/bus/pci/drivers/virtio-pci';
const header = '/run/virtio-iommu-header';
const config = `/sys/bus/pci/devices/${address}/config`;

const letGo = `set -e
echo ${address} > ${driver}/unbind
dd if=${config} of=${header} bs=64 count=1 2> /dev/null`;

/** Its BARs are where the kernel has put them: six registers from 0x10 on, PCI Local Bus 3.0 §6.2.5. */
const takeAgain = `set -e
dd if=${header} of=${config} bs=4 skip=4 seek=4 count=6 conv=notrunc 2> /dev/null
echo ${address} > ${driver}/bind`;
