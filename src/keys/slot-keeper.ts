import type { KeySlot } from './key-slot.ts';
import type { KeyBits, SlotDescription, SlotStep } from './slot-lifecycle.ts';
import type { VmId } from './vm-id.ts';

/** How far the rotation of a slot is. */
export interface RotationProgress {
  readonly slot: KeySlot;
  /** Of the new key. */
  readonly generation: number;
  /** `ended`: its keys were wiped before it was done, by a revocation or a loss of the controller. */
  readonly state: 'running' | 'paused' | 'done' | 'ended';
  /** Pages of DRAM that the slot's VM has. */
  readonly pages: number;
  /** Pages of these that the rotation has passed: nothing in them is under the old key. */
  readonly passedPages: number;
  /**
   * Pages that it encrypted anew, in whole or in part. The others were never written, were under another
   * slot, or had been written under the new key before it came to them.
   */
  readonly movedPages: number;
  /** Milliseconds that it has had of the thread that serves memory. */
  readonly workMs: number;
}

export interface KeyOptions {
  /** Binds the slot to a VM in the same step. */
  readonly vm?: VmId | undefined;
  /** 256 unless told. */
  readonly keyBits?: KeyBits | undefined;
}

export interface RotateOptions {
  /** A descriptor that holds the new key, as for `load`; a random one where there is none. */
  readonly descriptor?: number | undefined;
  /** Those of the present key unless told. */
  readonly keyBits?: KeyBits | undefined;
  /** Percent of the thread that serves memory, 5 to 100, while guests are at memory; 60 unless told. */
  readonly duty?: number | undefined;
}

/**
 * Who keeps the keys of the slots: a memory controller, or nobody where memory is plain. Each step answers
 * with what the slot is after it, and rejects where the slot's state does not allow it.
 */
export interface SlotKeeper {
  generate(slot: KeySlot, options?: KeyOptions): Promise<SlotDescription>;
  /**
   * Key1 then Key2 out of a file, pipe or socket: 64 bytes, or 32 for 128 bits. The descriptor stays open and
   * is the caller's; the bytes are read by who keeps the keys, once.
   */
  load(slot: KeySlot, descriptor: number, options?: KeyOptions): Promise<SlotDescription>;
  bind(slot: KeySlot, vm: VmId): Promise<SlotDescription>;
  activate(slot: KeySlot): Promise<SlotDescription>;
  /** Begins to move what is under the slot to a new key. */
  rotate(slot: KeySlot, options?: RotateOptions): Promise<SlotDescription>;
  pause(slot: KeySlot): Promise<RotationProgress>;
  resume(slot: KeySlot): Promise<RotationProgress>;
  /** From the answer on nothing is decrypted or encrypted under the slot, and its keys are wiped. */
  revoke(slot: KeySlot): Promise<SlotDescription>;
  destroy(slot: KeySlot): Promise<SlotDescription>;
  /**
   * Calls with what a slot has become, and by which step, undefined where nobody asked for it. In the order in
   * which it came about, and before the step's promise resolves: a promise is heard when its turn comes, and
   * then more may have come about. Answers how to stop that.
   */
  onSlot(listener: SlotListener): () => void;
  /** Calls with each word of a rotation. Answers how to stop that. */
  onRotation(listener: RotationListener): () => void;
}

export type SlotListener = (slot: SlotDescription, step: SlotStep | undefined) => void;
export type RotationListener = (progress: RotationProgress) => void;
