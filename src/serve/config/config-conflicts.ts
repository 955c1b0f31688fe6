import { IOMMU_ADDRESS } from '../../machine/machine.ts';
import { formatRequesterId, type RequesterId } from '../../pci/requester-id.ts';
import { checkPlace } from '../../vm/root-ports.ts';
import { placeProblems } from '../guest-place.ts';
import { Claims } from './claims.ts';
import { ConfigError, type Placed } from './config-place.ts';
import type { VmConfig } from './serve-config.ts';

/** What is well formed in each VM and cannot be had of all. */
export function findConflicts(vms: readonly VmConfig[]): ConfigError[] {
  const names = new Claims<string>('a name');
  const slots = new Claims<number>('a key slot');
  const descriptors = new Claims<number>('a descriptor');
  const sockets = new Claims<string>('a socket path');
  return vms.flatMap((vm) => {
    const { name, place, slot, key } = vm;
    return [
      ...names.claim({ value: name, place }),
      ...(slot === undefined ? [] : slots.claim(slot, `slot ${slot.value}`)),
      ...(key.descriptor === undefined
        ? []
        : descriptors.claim({ value: key.descriptor, place: key.place })),
      ...keyOfPlain(vm),
      ...vm.functions.flatMap(({ socket }) => (socket === undefined ? [] : sockets.claim(socket))),
      ...addressConflicts(vm),
      ...bootConflicts(vm),
      ...translationConflicts(vm),
    ];
  });
}

function keyOfPlain({ memory, key }: VmConfig): ConfigError[] {
  if (memory === 'sealed' || key.descriptor === undefined) return [];
  return [new ConfigError(key.place, 'expected sealed memory to load a key for, got plain memory')];
}

function addressConflicts({ functions, iommu, rootPorts }: VmConfig): ConfigError[] {
  const addresses = new Claims<RequesterId>('a place');
  const places = functions.map(({ at }) => at.value);
  return functions.flatMap(({ at }) => {
    const name = formatRequesterId(at.value).slice(5);
    const errors = [...addresses.claim(at, name), ...portConflicts(at, rootPorts)];
    if (iommu === 'virtio' && at.value === IOMMU_ADDRESS) {
      errors.push(
        new ConfigError(at.place, `expected a free place, got ${name}, the virtio-iommu's`),
      );
    }
    const problems = placeProblems(at.value, places);
    errors.push(...problems.map((words) => new ConfigError(at.place, words)));
    return errors;
  });
}

function portConflicts({ value, place }: Placed<RequesterId>, rootPorts: number): ConfigError[] {
  try {
    checkPlace(value, rootPorts);
    return [];
  } catch (error) {
    return [new ConfigError(place, error instanceof Error ? error.message : String(error))];
  }
}

/** A guest that programs an IOMMU makes its own translations, and has no word for slots. */
function translationConflicts({ iommu, functions }: VmConfig): ConfigError[] {
  if (iommu === 'identity') return [];
  return functions.flatMap(({ slotFrom }) =>
    slotFrom?.value === 'translation'
      ? [
          new ConfigError(
            slotFrom.place,
            'expected iommu identity, whose translations are ours to make, got virtio',
          ),
        ]
      : [],
  );
}

function bootConflicts({ boot, functions }: VmConfig): ConfigError[] {
  if (boot === undefined) return [];
  const from = functions.find(({ at }) => at.value === boot.value);
  if (from?.device.kind === 'nvme' || from?.device.kind === 'subsystem-function') return [];
  const name = formatRequesterId(boot.value).slice(5);
  return [new ConfigError(boot.place, `expected an nvme to boot from at ${name}, got none`)];
}
