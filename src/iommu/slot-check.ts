import type { KeySlot } from '../keys/key-slot.ts';
import type { VmId } from '../keys/vm-id.ts';
import type { FaultReason } from '../pci/dma-port.ts';
import type { SlotDirectory } from './slot-directory.ts';

/**
 * Why no DMA of a VM's function may go through a slot; undefined where it may.
 * @param bound generation of the slot when its name was written down, where that is known
 */
export function slotFault(
  slots: SlotDirectory,
  slot: KeySlot,
  vm: VmId,
  bound: number | undefined,
): FaultReason | undefined {
  const use = slots.use(slot);
  if (use === 'empty') return 'slot-empty';
  if (slots.vm(slot) !== vm) return 'slot-of-another-vm';
  if (use !== 'active') return 'slot-not-active';
  if (bound === undefined || bound >= slots.since(slot)) return undefined;
  return 'slot-of-another-generation';
}
