/**
 * The life of key slots: which step is allowed from which state, and what is known of a slot. No key is
 * here; the key table has them, and plain memory has none.
 *
 *     empty ──generate, load──▶ loaded ──bind, activate──▶ active ◀──finish── rotating
 *       ▲                          │                          │ └───rotate──────▶ │
 *       │                          └───────────revoke─────────┴───────────────────┤
 *       └──────────destroy── (from every state) ◀───────────── revoked ◀──────────┘
 *
 * A slot that is `rotating` serves as an active one does, with the keys of two generations. A revoked slot
 * keeps its VM and its generation, so that a DMA under it can be told from one under a slot that never was;
 * `destroy` frees it.
 * @module
 */
import { KEY_SLOTS, type KeySlot } from './key-slot.ts';
import { GENERATION_MAX } from './key-tag.ts';
import type { VmId } from './vm-id.ts';

export type SlotState = 'empty' | 'loaded' | 'active' | 'rotating' | 'revoked';

export type SlotStep =
  | 'generate'
  | 'load'
  | 'bind'
  | 'activate'
  | 'rotate'
  | 'finish'
  | 'revoke'
  | 'destroy';

const ALLOWED_FROM: Readonly<Record<SlotStep, readonly SlotState[]>> = {
  generate: ['empty'],
  load: ['empty'],
  bind: ['loaded'],
  activate: ['loaded'],
  rotate: ['active'],
  finish: ['rotating'],
  revoke: ['loaded', 'active', 'rotating'],
  destroy: ['empty', 'loaded', 'active', 'rotating', 'revoked'],
};

/** What to do where a step is refused, if there is something. */
const ADVICE: Partial<Readonly<Record<SlotStep, Partial<Readonly<Record<SlotState, string>>>>>> = {
  generate: { loaded: 'destroy it first', active: 'rotate it, or destroy it first' },
  load: { loaded: 'destroy it first', active: 'rotate it, or destroy it first' },
  activate: { empty: 'generate or load a key first' },
  bind: { empty: 'generate or load a key first' },
  rotate: {
    empty: 'generate or load a key first',
    loaded: 'activate it first',
    rotating: 'wait for the end of the rotation',
  },
};

/** Why a slot does not serve an access: the fault reasons of the IOMMU that are about slots. */
export type SlotRefusal = 'slot-empty' | 'slot-not-active' | 'slot-of-another-vm';

export type KeyBits = 128 | 256;

/** What anyone may know of a slot. */
export interface SlotDescription {
  readonly slot: KeySlot;
  readonly state: SlotState;
  readonly vm: VmId | undefined;
  /** Counts the keys that this slot has had, the newest included; 0 where it never had one. */
  readonly generation: number;
  /** Of the newest key. */
  readonly keyBits: KeyBits | undefined;
}

/** A slot was asked for what its state does not allow. Names the slot, never the key. */
export class KeySlotError extends Error {
  override readonly name = 'KeySlotError';
  readonly slot: KeySlot;
  readonly refusal: SlotRefusal | undefined;

  constructor(slot: KeySlot, message: string, refusal?: SlotRefusal) {
    super(`key slot ${slot}: ${message}`);
    this.slot = slot;
    this.refusal = refusal;
  }
}

/** Whether a slot in that state serves accesses of its VM. */
export function serves(state: SlotState): boolean {
  return state === 'active' || state === 'rotating';
}

/** @throws KeySlotError where a slot in that state does not allow the step. */
export function expectStep(slot: KeySlot, state: SlotState, step: SlotStep): void {
  const from = ALLOWED_FROM[step];
  if (from.includes(state)) return;
  const advice = ADVICE[step]?.[state];
  throw new KeySlotError(
    slot,
    `expected a slot that is ${from.join(' or ')} to ${step} it, got one that is ${state}` +
      `${advice === undefined ? '' : `: ${advice}`}`,
  );
}

/** @throws RangeError where there are no keys of so many bits. */
export function checkKeyBits(keyBits: number): KeyBits {
  if (keyBits === 256 || keyBits === 128) return keyBits;
  throw new RangeError(`expected keyBits 256 or 128, got ${keyBits}`);
}

/** Bytes of an XTS key: both halves, each of `keyBits`. */
export function keyBytes(keyBits: KeyBits): 64 | 32 {
  return keyBits === 128 ? 32 : 64;
}

interface Slot {
  state: SlotState;
  vm: VmId | undefined;
  generation: number;
  keyBits: KeyBits | undefined;
}

export class SlotLifecycle {
  readonly #slots = new Array<Slot | undefined>(KEY_SLOTS).fill(undefined);

  /** @throws KeySlotError where the slot does not allow the step now. */
  check(step: SlotStep, slot: KeySlot): void {
    const entry = this.#slots[slot];
    expectStep(slot, entry?.state ?? 'empty', step);
    if (step === 'activate' && entry?.vm === undefined) {
      throw new KeySlotError(
        slot,
        'expected a slot bound to a VM, got an unbound one: bind it first',
      );
    }
    const brings = step === 'generate' || step === 'load' || step === 'rotate';
    if (brings && entry !== undefined && entry.generation >= GENERATION_MAX) {
      throw new KeySlotError(
        slot,
        `expected fewer than ${GENERATION_MAX} keys in one slot, got one more: take another slot`,
      );
    }
  }

  /** empty → loaded, with a key of the next generation. @throws KeySlotError */
  fill(
    step: 'generate' | 'load',
    slot: KeySlot,
    { vm, keyBits }: { readonly vm: VmId | undefined; readonly keyBits: KeyBits },
  ): void {
    this.check(step, slot);
    const generation = (this.#slots[slot]?.generation ?? 0) + 1;
    this.#slots[slot] = { state: 'loaded', vm, generation, keyBits };
  }

  /** Gives a loaded slot to a VM, once. @throws KeySlotError */
  bind(slot: KeySlot, vm: VmId): void {
    const entry = this.#checked('bind', slot);
    if (entry.vm !== undefined && entry.vm !== vm) {
      throw new KeySlotError(slot, `expected an unbound slot, got one of VM ${entry.vm}`);
    }
    entry.vm = vm;
  }

  /** loaded and bound → active. @throws KeySlotError */
  activate(slot: KeySlot): void {
    this.#checked('activate', slot).state = 'active';
  }

  /** active → rotating, with a key of the next generation beside the present one. @throws KeySlotError */
  rotate(slot: KeySlot, keyBits: KeyBits): void {
    const entry = this.#checked('rotate', slot);
    entry.state = 'rotating';
    entry.generation++;
    entry.keyBits = keyBits;
  }

  /** rotating → active: the newer key alone is left. @throws KeySlotError */
  finish(slot: KeySlot): void {
    this.#checked('finish', slot).state = 'active';
  }

  /** loaded, active or rotating → revoked. @throws KeySlotError */
  revoke(slot: KeySlot): void {
    this.#checked('revoke', slot).state = 'revoked';
  }

  /** Any state → empty, unbound. @returns whether there was something to destroy. */
  destroy(slot: KeySlot): boolean {
    const entry = this.#slots[slot];
    if (entry === undefined || entry.state === 'empty') return false;
    entry.state = 'empty';
    entry.vm = undefined;
    entry.keyBits = undefined;
    return true;
  }

  /** Why `vm` may not use the slot, or undefined where it may. Allocates nothing. */
  refusal(slot: KeySlot, vm: VmId): SlotRefusal | undefined {
    const entry = this.#slots[slot];
    if (entry === undefined || entry.state === 'empty') return 'slot-empty';
    if (entry.vm !== undefined && entry.vm !== vm) return 'slot-of-another-vm';
    return serves(entry.state) ? undefined : 'slot-not-active';
  }

  describe(slot: KeySlot): SlotDescription {
    const entry = this.#slots[slot];
    return {
      slot,
      state: entry?.state ?? 'empty',
      vm: entry?.vm,
      generation: entry?.generation ?? 0,
      keyBits: entry?.keyBits,
    };
  }

  /** The slots that are not empty, in order. */
  list(): SlotDescription[] {
    const described: SlotDescription[] = [];
    for (const [index, entry] of this.#slots.entries()) {
      if (entry !== undefined && entry.state !== 'empty') {
        described.push(this.describe(index as KeySlot));
      }
    }
    return described;
  }

  #checked(step: SlotStep, slot: KeySlot): Slot {
    this.check(step, slot);
    // No step that comes here is allowed from `empty`, so there is one.
    return this.#slots[slot] as Slot;
  }
}
