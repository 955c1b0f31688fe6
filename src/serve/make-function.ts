/** The function that a configuration asks for, with the disks that it has. */
import { createHash } from 'node:crypto';
import { Edu } from '../devices/edu/edu.ts';
import { functionClassOf } from '../devices/function-module.ts';
import { doorbellsFor } from '../devices/nvme/doorbells.ts';
import { Nvme } from '../devices/nvme/nvme.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import { openStorage } from '../storage/open-storage.ts';
import { atPlace } from './config/config-place.ts';
import type { DeviceConfig } from './config/serve-config.ts';
import type { Subsystems } from './subsystems.ts';

export interface MakeOptions {
  /** How the memory of its VM is held. */
  readonly memory: 'sealed' | 'plain';
  readonly log: (message: string) => void;
  /** Takes what is to be closed when the function is gone. */
  readonly opened: (close: () => Promise<void>) => void;
  readonly subsystems: Subsystems;
}

/**
 * @param serial who it is, of an nvme with disks of its own
 * @throws ConfigError: a disk that is missing, or in use; a module without such a class; a subsystem that is not
 *   there, or a function of it that a VM has
 */
export async function makeFunction(
  device: DeviceConfig,
  serial: string,
  { memory, log, opened, subsystems }: MakeOptions,
): Promise<PciEndpoint> {
  switch (device.kind) {
    case 'edu':
      return new Edu();
    case 'module':
      return await atPlace(device.place, async () => {
        const type = await functionClassOf(device.file, device.exportName);
        return new type();
      });
    case 'nvme': {
      const namespaces = [];
      for (const { place, file, readOnly } of device.disks) {
        const storage = await atPlace(place, () => openStorage(file, { readOnly, log }));
        opened(() => storage.close());
        namespaces.push({ storage });
      }
      return new Nvme({ namespaces, serial, doorbells: doorbellsFor(memory) });
    }
    case 'subsystem-function':
      return await subsystems.take(device, doorbellsFor(memory), opened);
  }
}

/**
 * A serial number for what a configuration has at an address of a VM: the same each time that it is served, and no
 * other's. Linux refuses a second controller that says it is the same one.
 */
export function serialAt(vm: string, address: RequesterId): string {
  const digest = createHash('sha256').update(`${vm} ${address}`).digest('hex');
  return `SB${digest.slice(0, 16).toUpperCase()}`;
}

/** As people call it. */
export function deviceName(device: DeviceConfig): string {
  if (device.kind === 'subsystem-function') return 'nvme';
  if (device.kind !== 'module') return device.kind;
  return device.exportName === undefined ? device.file : `${device.file}#${device.exportName}`;
}
