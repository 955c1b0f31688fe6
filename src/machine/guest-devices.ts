import type { Parts } from '../setup/parts.ts';
import type { GuestOptions } from '../vm/guest.ts';
import type { GuestDevice } from '../vm/qemu-command.ts';
import { portPlaces } from '../vm/root-ports.ts';
import { functionPlaces, IOMMU_ADDRESS, imageWithVirtioIommu, writeViot } from './guest-iommu.ts';
import type { Machine } from './machine.ts';

interface MachineForGuest {
  readonly parts: Parts;
  /** Whether the firmware's table names every place where a function may come. */
  readonly late: boolean;
}

/** A guest with the functions, the memory and the root ports of a machine, beside what its caller asks for. */
export function guestOptions(
  machine: Machine,
  options: Omit<GuestOptions, 'memory'>,
  { parts, late }: MachineForGuest,
): GuestOptions {
  const { functions, guestRam, platform, rootPorts, segment, virtioIommu } = machine;
  const plugged = functions.map(
    ({ address, server }): GuestDevice => ({
      kind: 'vfio-user',
      address,
      socket: server.socketPath,
    }),
  );
  const own = {
    ...options,
    memory: guestRam,
    devices: [...plugged, ...(options.devices ?? [])],
    ...(rootPorts === 0 ? {} : { rootPorts }),
  };
  if (virtioIommu === undefined) return own;
  const there = functions.map(({ address }) => address).filter((one) => one !== IOMMU_ADDRESS);
  // What comes behind a port while the guest runs is behind the IOMMU too.
  const endpoints = [...(late ? functionPlaces : there), ...portPlaces(rootPorts)];
  const table = writeViot(platform.run.path, IOMMU_ADDRESS, endpoints, segment);
  return {
    ...own,
    acpiTables: [table, ...(options.acpiTables ?? [])],
    image: imageWithVirtioIommu(parts.kernel, options.image),
  };
}
