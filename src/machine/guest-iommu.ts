/** What a guest needs to find the virtio-iommu of its machine, and to drive it. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseRequesterId, type RequesterId } from '../pci/requester-id.ts';
import { kernelModule } from '../setup/kernel-module.ts';
import type { KernelPart } from '../setup/parts.ts';
import { viotTable } from '../vm/acpi/viot.ts';
import type { GuestImageOptions } from '../vm/guest-image.ts';

/** Where the virtio-iommu is plugged in: below the places that devices without one are given. */
export const IOMMU_ADDRESS = parseRequesterId('00:03.0');

/** The table's file, in the directory of a run: that of the first VM's. */
export const VIOT_FILE = 'viot.acpi';

/** Where functions may be plugged in that have no place kept for them: 00:04.0 to 00:1c.7. */
export const functionPlaces: readonly RequesterId[] = Array.from(
  { length: 0x1d * 8 - 4 * 8 },
  (_, index) => (4 * 8 + index) as RequesterId,
);

/**
 * Writes the table that names the functions behind the IOMMU, by their addresses in the guest; their requester
 * IDs have `hostSegment`. Answers the path.
 */
export function writeViot(
  directory: string,
  iommu: RequesterId,
  endpoints: readonly RequesterId[],
  hostSegment = 0,
): string {
  const path = viotPath(directory, hostSegment);
  writeFileSync(path, viotTable(iommu, endpoints, hostSegment));
  return path;
}

/** Removes the table of a VM that has gone, if it had one. */
export function removeViot(directory: string, hostSegment: number): void {
  rmSync(viotPath(directory, hostSegment), { force: true });
}

function viotPath(directory: string, hostSegment: number): string {
  return join(directory, hostSegment === 0 ? VIOT_FILE : `viot-${hostSegment}.acpi`);
}

/**
 * An image with Linux's own driver in it, out of the kernel's modules; it needs no other module. The
 * guest's insmod takes it compressed, as Debian ships it.
 * @throws SetupError where the kernel has it not as a module
 */
export function imageWithVirtioIommu(
  kernel: Pick<KernelPart, 'modules' | 'release'>,
  image: GuestImageOptions = {},
): GuestImageOptions {
  const bytes = kernelModule(kernel, 'drivers/iommu/virtio-iommu');
  return { ...image, files: { 'lib/modules/virtio_iommu.ko': { bytes }, ...image.files } };
}
