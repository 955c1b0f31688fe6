import type { KeySlot } from '../keys/key-slot.ts';
import type { VmId } from '../keys/vm-id.ts';

/** Whether a slot's key may be used now. */
export type SlotUse = 'empty' | 'not-active' | 'active';

/**
 * What the IOMMU may know of key slots: whose they are and whether they may be used. The keys are
 * elsewhere, in the key table of the memory controller.
 */
export interface SlotDirectory {
  use(slot: KeySlot): SlotUse;
  /** The VM that a slot is bound to. */
  vm(slot: KeySlot): VmId | undefined;
  /** Counts the keys that a slot has had; 0 where it never had one. */
  generation(slot: KeySlot): number;
  /** The generation that the slot's present life began with, when it was filled; 0 where it is empty. */
  since(slot: KeySlot): number;
}
