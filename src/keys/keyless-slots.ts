import type { KeySlot } from './key-slot.ts';
import type {
  KeyOptions,
  RotateOptions,
  RotationListener,
  RotationProgress,
  SlotKeeper,
  SlotListener,
} from './slot-keeper.ts';
import {
  checkKeyBits,
  KeySlotError,
  type SlotDescription,
  SlotLifecycle,
  type SlotStep,
} from './slot-lifecycle.ts';
import type { VmId } from './vm-id.ts';

/**
 * Slots where memory is plain: they have states, VMs and generations, which the IOMMU checks, and no keys,
 * for nothing is encrypted. A rotation is over as soon as it is asked for.
 */
export class KeylessSlots implements SlotKeeper {
  readonly #life = new SlotLifecycle();
  readonly #slotListeners = new Set<SlotListener>();
  readonly #rotationListeners = new Set<RotationListener>();

  async generate(slot: KeySlot, { vm, keyBits = 256 }: KeyOptions = {}): Promise<SlotDescription> {
    this.#life.fill('generate', slot, { vm, keyBits: checkKeyBits(keyBits) });
    return this.#now(slot, 'generate');
  }

  /** Always rejects: a key that nobody uses is better left where it is. */
  async load(slot: KeySlot): Promise<SlotDescription> {
    throw noKeys(slot);
  }

  async bind(slot: KeySlot, vm: VmId): Promise<SlotDescription> {
    this.#life.bind(slot, vm);
    return this.#now(slot, 'bind');
  }

  async activate(slot: KeySlot): Promise<SlotDescription> {
    this.#life.activate(slot);
    return this.#now(slot, 'activate');
  }

  async rotate(
    slot: KeySlot,
    { descriptor, keyBits }: RotateOptions = {},
  ): Promise<SlotDescription> {
    if (descriptor !== undefined) throw noKeys(slot);
    this.#life.rotate(slot, checkKeyBits(keyBits ?? this.#life.describe(slot).keyBits ?? 256));
    this.#life.finish(slot);
    const described = this.#now(slot, 'rotate');
    const { generation } = described;
    const nothing = { pages: 0, passedPages: 0, movedPages: 0, workMs: 0 };
    for (const listener of this.#rotationListeners) {
      listener({ slot, generation, state: 'done', ...nothing });
    }
    return described;
  }

  async pause(slot: KeySlot): Promise<RotationProgress> {
    throw this.#notRotating(slot);
  }

  async resume(slot: KeySlot): Promise<RotationProgress> {
    throw this.#notRotating(slot);
  }

  async revoke(slot: KeySlot): Promise<SlotDescription> {
    this.#life.revoke(slot);
    return this.#now(slot, 'revoke');
  }

  async destroy(slot: KeySlot): Promise<SlotDescription> {
    this.#life.destroy(slot);
    return this.#now(slot, 'destroy');
  }

  onSlot(listener: SlotListener): () => void {
    this.#slotListeners.add(listener);
    return () => this.#slotListeners.delete(listener);
  }

  onRotation(listener: RotationListener): () => void {
    this.#rotationListeners.add(listener);
    return () => this.#rotationListeners.delete(listener);
  }

  #now(slot: KeySlot, step: SlotStep): SlotDescription {
    const described = this.#life.describe(slot);
    for (const listener of this.#slotListeners) listener(described, step);
    return described;
  }

  #notRotating(slot: KeySlot): KeySlotError {
    const { state } = this.#life.describe(slot);
    return new KeySlotError(
      slot,
      `expected a slot that is being rotated, got one that is ${state}`,
    );
  }
}

function noKeys(slot: KeySlot): KeySlotError {
  return new KeySlotError(
    slot,
    'expected sealed memory to load a key for, got plain memory, which uses none: generate it',
  );
}
