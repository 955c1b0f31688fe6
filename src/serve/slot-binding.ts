/** To which key slot a function of a served VM is bound: where its device-table entry says that its DMA goes through. */
import type { DeviceTableEntry } from '../iommu/device-table.ts';
import { type AccessSlot, IN_CLEAR, type KeySlot } from '../keys/key-slot.ts';
import type { Platform } from '../machine/platform.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { ServedVm } from './served-vm.ts';

/** From the next DMA on. @throws Error where the function is blocked, or the slot is not its VM's */
export function bindToSlot(platform: Platform, rid: RequesterId, slot: KeySlot): void {
  const entry = entryOf(platform, rid);
  const { state, vm, generation } = platform.keys.describe(slot);
  if (vm !== entry.vm) {
    const whose = vm === undefined ? `is ${state}` : `is VM ${vm}'s`;
    throw new Error(
      `expected a slot of VM ${entry.vm}, whose function ${formatRequesterId(rid)} is, got slot ${slot}, which ${whose}`,
    );
  }
  setSlot(platform, rid, entry, slot, generation);
}

/** Through no key, for shared pages. @throws Error where the function is blocked, or its VM can have no such pages */
export function bindInClear(
  platform: Platform,
  rid: RequesterId,
  { name, machine }: ServedVm,
): void {
  if (machine.mode === 'plain') {
    throw new Error(`expected a VM with shared pages, got ${name}, whose memory is plain`);
  }
  setSlot(platform, rid, entryOf(platform, rid), IN_CLEAR);
}

function entryOf({ iommu }: Platform, rid: RequesterId): DeviceTableEntry {
  const entry = iommu.table.get(rid);
  if (entry !== undefined) return entry;
  const name = formatRequesterId(rid);
  throw new Error(`expected a function that is bound, got ${name}, which is blocked`);
}

function setSlot(
  { iommu }: Platform,
  rid: RequesterId,
  entry: DeviceTableEntry,
  slot: AccessSlot,
  generation?: number,
): void {
  iommu.table.set(rid, { ...entry, slotFrom: 'device-table', slot, generation });
}
