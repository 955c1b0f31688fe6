import type { SlotDirectory, SlotUse } from '../iommu/slot-directory.ts';
import { Watchers } from '../iommu/watchers.ts';
import { KEY_SLOTS, type KeySlot } from '../keys/key-slot.ts';
import { type SlotDescription, serves } from '../keys/slot-lifecycle.ts';
import type { VmId } from '../keys/vm-id.ts';

export type SlotListener = (now: SlotDescription, before: SlotDescription) => void;

/**
 * What the device's process knows of the key table: descriptions, never keys. The table itself is in
 * the memory controller, which checks again; a description is entered here only once the table has
 * said so, and a slot that is to go is entered as gone before the table is told.
 *
 * An array and not a map: every DMA looks up its slot here.
 */
export class SlotRegister implements SlotDirectory {
  readonly #watchers = new Watchers<Parameters<SlotListener>>();
  readonly #slots = new Array<SlotDescription | undefined>(KEY_SLOTS).fill(undefined);
  /** What each DMA asks for, ready for use. */
  readonly #use = new Array<SlotUse>(KEY_SLOTS).fill('empty');
  readonly #since = new Array<number>(KEY_SLOTS).fill(0);

  enter(description: SlotDescription): void {
    const before = this.describe(description.slot);
    this.#slots[description.slot] = description;
    this.#use[description.slot] = useOf(description.state);
    if (description.state === 'empty') this.#since[description.slot] = 0;
    else if (before.state === 'empty') this.#since[description.slot] = description.generation;
    this.#watchers.tell(description, before);
  }

  /** Calls `listener` with each description that is entered, and the one before it. Answers how to stop that. */
  onEntered(listener: SlotListener): () => void {
    return this.#watchers.add(listener);
  }

  use(slot: KeySlot): SlotUse {
    return this.#use[slot] ?? 'empty';
  }

  vm(slot: KeySlot): VmId | undefined {
    return this.#slots[slot]?.vm;
  }

  generation(slot: KeySlot): number {
    return this.#slots[slot]?.generation ?? 0;
  }

  since(slot: KeySlot): number {
    return this.#since[slot] ?? 0;
  }

  /** The slots that are not empty, in order. */
  list(): SlotDescription[] {
    return this.#slots.filter(
      (each) => each !== undefined && each.state !== 'empty',
    ) as SlotDescription[];
  }

  describe(slot: KeySlot): SlotDescription {
    const none = {
      slot,
      state: 'empty',
      vm: undefined,
      generation: 0,
      keyBits: undefined,
    } as const;
    return this.#slots[slot] ?? none;
  }
}

function useOf(state: SlotDescription['state']): SlotUse {
  if (serves(state)) return 'active';
  return state === 'empty' ? 'empty' : 'not-active';
}
