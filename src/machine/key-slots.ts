import type { KeySlot } from '../keys/key-slot.ts';
import { rotationDuty } from '../keys/rotation-duty.ts';
import type {
  KeyOptions,
  RotateOptions,
  RotationListener,
  RotationProgress,
  SlotKeeper,
} from '../keys/slot-keeper.ts';
import {
  expectStep,
  KeySlotError,
  type SlotDescription,
  type SlotStep,
} from '../keys/slot-lifecycle.ts';
import type { VmId } from '../keys/vm-id.ts';
import type { SlotRegister } from './slot-register.ts';

/**
 * The key slots of a machine: every step of their life (docs/keys.md), for whoever owns the machine.
 *
 * It stands between who keeps the keys and what the IOMMU goes by, and keeps the order between the two: a
 * slot serves in the register only after the keeper has said so, and is gone from the register before the
 * keeper is told to wipe its keys. A step that a slot's state does not allow is a {@link KeySlotError}, and
 * changes nothing.
 */
export class KeySlots {
  readonly #register: SlotRegister;
  readonly #keeper: SlotKeeper;
  /** Revocations and destructions that the keeper has not answered yet. */
  readonly #withdrawals = new Map<KeySlot, number>();
  /** The last word of each slot's last rotation. */
  readonly #rotations = new Map<KeySlot, RotationProgress>();
  readonly #listeners = new Set<RotationListener>();

  constructor(register: SlotRegister, keeper: SlotKeeper) {
    this.#register = register;
    this.#keeper = keeper;
    keeper.onSlot((slot, step) => this.#enter(slot, step));
    keeper.onRotation((progress) => this.#heard(progress));
  }

  /** Makes a random key: empty → loaded. @throws KeySlotError, MemoryError */
  async generate(slot: KeySlot, options: KeyOptions = {}): Promise<SlotDescription> {
    this.#expect(slot, 'generate');
    return await this.#keeper.generate(slot, options);
  }

  /**
   * Takes a key from a file, pipe or socket, Key1 then Key2: empty → loaded. 64 bytes, or 32 for 128 bits; a
   * file has just these. This process does not read them: it waits until they are there, and hands the
   * descriptor over. The descriptor stays open and is the caller's to close.
   * @throws KeySlotError; Error where it is no such descriptor, no key comes for a minute, it is short, or its
   *   halves are equal
   */
  async load(
    slot: KeySlot,
    descriptor: number,
    options: KeyOptions = {},
  ): Promise<SlotDescription> {
    this.#expect(slot, 'load');
    return await this.#keeper.load(slot, descriptor, options);
  }

  /** Gives a loaded slot to a VM, once. @throws KeySlotError, MemoryError */
  async bind(slot: KeySlot, vm: VmId): Promise<SlotDescription> {
    this.#expect(slot, 'bind');
    return await this.#keeper.bind(slot, vm);
  }

  /** loaded and bound → active: from here on it serves its VM. @throws KeySlotError, MemoryError */
  async activate(slot: KeySlot): Promise<SlotDescription> {
    this.#expect(slot, 'activate');
    return await this.#keeper.activate(slot);
  }

  /**
   * Begins a rotation: active → rotating, and active again at its end, when the old key is wiped. It runs in
   * the background, the guest beside it; {@link rotated} waits for it.
   * @throws KeySlotError, also where one is under way; RangeError for a duty that is none; as {@link load} for a
   *   key from a descriptor
   */
  async rotate(slot: KeySlot, options: RotateOptions = {}): Promise<SlotDescription> {
    this.#expect(slot, 'rotate');
    if (options.duty !== undefined) rotationDuty(options.duty);
    const keyBits = options.keyBits ?? this.describe(slot).keyBits;
    return await this.#keeper.rotate(slot, { ...options, keyBits });
  }

  /** Stops a rotation where it is: both keys stay in use. @throws KeySlotError, MemoryError */
  async pause(slot: KeySlot): Promise<RotationProgress> {
    return await this.#keeper.pause(slot);
  }

  /** Has a rotation go on. @throws KeySlotError, MemoryError */
  async resume(slot: KeySlot): Promise<RotationProgress> {
    return await this.#keeper.resume(slot);
  }

  /**
   * Takes a slot out of use: loaded, active or rotating → revoked. At once no DMA begins under it; when this
   * resolves no fill or write-back of the CPU's cache is served under it either, and its keys are wiped.
   * @throws KeySlotError; MemoryError where the keeper is gone, and its keys with it
   */
  async revoke(slot: KeySlot): Promise<SlotDescription> {
    this.#expect(slot, 'revoke');
    const before = this.describe(slot);
    return await this.#withdraw({ ...before, state: 'revoked' }, () => this.#keeper.revoke(slot));
  }

  /**
   * Frees a slot, whatever its state: its keys are wiped, and what is in DRAM under them can be read by nobody
   * any more. The next key of the slot has the next generation.
   */
  async destroy(slot: KeySlot): Promise<SlotDescription> {
    const { generation } = this.describe(slot);
    const empty = { slot, state: 'empty', vm: undefined, generation, keyBits: undefined } as const;
    return await this.#withdraw(empty, () => this.#keeper.destroy(slot));
  }

  describe(slot: KeySlot): SlotDescription {
    return this.#register.describe(slot);
  }

  /** The slots that are not empty, in order. */
  list(): SlotDescription[] {
    return this.#register.list();
  }

  /** The last rotation of a slot, as far as it is known to be; undefined where there was none. */
  rotation(slot: KeySlot): RotationProgress | undefined {
    return this.#rotations.get(slot);
  }

  /**
   * Waits for the end of the rotation that is under way, or was the last.
   * @throws KeySlotError where there was none, or its keys were wiped before it was done
   */
  async rotated(slot: KeySlot): Promise<RotationProgress> {
    const known = this.rotation(slot);
    if (known === undefined) {
      throw new KeySlotError(slot, 'expected a slot that was rotated, got one that never was');
    }
    const end = isOver(known) ? known : await this.#over(slot);
    if (end.state === 'done') return end;
    throw new KeySlotError(
      slot,
      `expected the rotation to generation ${end.generation} to be done, got the end of its keys ` +
        `after ${end.passedPages} of ${end.pages} pages`,
    );
  }

  /**
   * Calls `listener` as a rotation begins, pauses, goes on and ends, and some times a second while it runs.
   * Answers how to stop that.
   */
  onRotation(listener: RotationListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #over(slot: KeySlot): Promise<RotationProgress> {
    return new Promise((resolve) => {
      const stop = this.onRotation((progress) => {
        if (progress.slot !== slot || !isOver(progress)) return;
        stop();
        resolve(progress);
      });
    });
  }

  #expect(slot: KeySlot, step: SlotStep): void {
    expectStep(slot, this.describe(slot).state, step);
  }

  /** What the keeper says holds; only a slot that was withdrawn here stays so until it has answered that. */
  #enter(description: SlotDescription, step: SlotStep | undefined): void {
    const { slot } = description;
    if (step === 'revoke' || step === 'destroy') this.#withdrawn(slot);
    if (!this.#withdrawals.has(slot)) this.#register.enter(description);
  }

  async #withdraw(
    gone: SlotDescription,
    tell: () => Promise<SlotDescription>,
  ): Promise<SlotDescription> {
    const { slot } = gone;
    this.#register.enter(gone);
    this.#withdrawals.set(slot, (this.#withdrawals.get(slot) ?? 0) + 1);
    try {
      return await tell();
    } catch (error) {
      this.#withdrawn(slot);
      throw error;
    }
  }

  #withdrawn(slot: KeySlot): void {
    const left = (this.#withdrawals.get(slot) ?? 0) - 1;
    if (left > 0) this.#withdrawals.set(slot, left);
    else this.#withdrawals.delete(slot);
  }

  #heard(progress: RotationProgress): void {
    this.#rotations.set(progress.slot, progress);
    for (const listener of this.#listeners) {
      try {
        listener(progress);
      } catch (error) {
        // Who only watches must not stop a rotation.
        process.emitWarning(error instanceof Error ? error : String(error));
      }
    }
  }
}

function isOver({ state }: RotationProgress): boolean {
  return state === 'done' || state === 'ended';
}
