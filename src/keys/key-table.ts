/**
 * The key table: slot → key, its state, its VM. Keys never leave it: what it gives out is a cipher that
 * uses the key of a slot, and stops working the moment that key is wiped.
 *
 *     empty ──generate, load──▶ loaded ──bind, activate──▶ active
 *       ▲                          │                          │
 *       │                          └────────revoke────────────┤
 *       └──────────destroy── (from every state) ◀── revoked ◀─┘
 *
 * A key is wiped on entering `revoked` and `empty`. A revoked slot keeps its VM and its generation, so
 * that a DMA under it can be told from one under a slot that never was; `destroy` frees it.
 * @module
 */
import { libcrypto } from '../crypto/libcrypto.ts';
import { openXts } from '../crypto/open-xts.ts';
import { WeakKeyError, type XtsCipher, type XtsEngineName } from '../crypto/xts-cipher.ts';
import { explicitBzero } from '../ffi/libc.ts';
import { KEY_SLOTS, type KeySlot } from './key-slot.ts';
import {
  fillRandom,
  readSecret,
  SECRET_PAGE_BYTES,
  type SecretMemoryKind,
  SecretPage,
} from './secret-memory.ts';
import type { VmId } from './vm-id.ts';

export type SlotState = 'empty' | 'loaded' | 'active' | 'revoked';

/** Why a slot does not serve an access: the fault reasons of the IOMMU that are about slots. */
export type SlotRefusal = 'slot-empty' | 'slot-not-active' | 'slot-of-another-vm';

/** What anyone may know of a slot. */
export interface SlotDescription {
  readonly slot: KeySlot;
  readonly state: SlotState;
  readonly vm: VmId | undefined;
  /** Counts the keys that this slot has had; 0 where it never had one. */
  readonly generation: number;
  readonly keyBits: 128 | 256 | undefined;
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

export interface KeyTableOptions {
  /** `evp` unless told. With `node` and `noble` active keys are in the JavaScript heap too. */
  readonly engine?: XtsEngineName;
  /** What to hold keys in; `memfd_secret` unless told, which falls back where the kernel has none. */
  readonly memory?: SecretMemoryKind;
}

interface Slot {
  state: SlotState;
  vm: VmId | undefined;
  generation: number;
  keyBits: 128 | 256 | undefined;
}

/** A slot has room for the longest key. */
const SLOT_BYTES = 64;
const SLOTS_PER_PAGE = SECRET_PAGE_BYTES / SLOT_BYTES;

export class KeyTable {
  readonly engine: XtsEngineName;
  readonly #slots: (Slot | undefined)[] = new Array(KEY_SLOTS).fill(undefined);
  /** Only active slots have one: the look-up of every DMA. */
  readonly #ciphers: (XtsCipher | undefined)[] = new Array(KEY_SLOTS).fill(undefined);
  readonly #memory: SecretMemoryKind;
  readonly #pages = new Map<number, SecretPage>();
  #closed = false;

  constructor(options: KeyTableOptions = {}) {
    this.engine = options.engine ?? 'evp';
    this.#memory = options.memory ?? 'memfd_secret';
  }

  /** Makes a random key: empty → loaded. @throws KeySlotError, Error */
  generate(
    slot: KeySlot,
    options: { readonly vm?: VmId; readonly keyBits?: 128 | 256 } = {},
  ): void {
    this.#fill(slot, options, fillRandom);
  }

  /**
   * Takes a key from a file descriptor, Key1 then Key2, 64 bytes (32 for 128 bits): empty → loaded.
   * The bytes go straight to secret memory; the descriptor stays open and is the caller's to close.
   * @throws KeySlotError, WeakKeyError for equal halves, Error where it holds too few bytes
   */
  load(
    slot: KeySlot,
    fd: number,
    options: { readonly vm?: VmId; readonly keyBits?: 128 | 256 } = {},
  ): void {
    this.#fill(slot, options, (address, bytes) => readSecret(fd, address, bytes));
  }

  /** Gives a loaded slot to a VM, once. @throws KeySlotError */
  bind(slot: KeySlot, vm: VmId): void {
    const entry = this.#in(slot, 'bind', 'loaded');
    if (entry.vm !== undefined && entry.vm !== vm) {
      throw new KeySlotError(slot, `expected an unbound slot, got one of VM ${entry.vm}`);
    }
    entry.vm = vm;
  }

  /** loaded and bound → active: from here on the slot serves. @throws KeySlotError, XtsError */
  activate(slot: KeySlot): void {
    const entry = this.#in(slot, 'activate', 'loaded');
    if (entry.vm === undefined) {
      throw new KeySlotError(
        slot,
        'expected a slot bound to a VM, got an unbound one: bind it first',
      );
    }
    const bytes = entry.keyBits === 128 ? 32 : 64;
    this.#ciphers[slot] = openXts({ address: this.#address(slot), bytes }, this.engine);
    entry.state = 'active';
  }

  /** loaded or active → revoked, at once: the key is wiped and its cipher closed. @throws KeySlotError */
  revoke(slot: KeySlot): void {
    const entry = this.#in(slot, 'revoke', 'loaded', 'active');
    this.#wipe(slot);
    entry.state = 'revoked';
  }

  /** Any state → empty, unbound; wipes the key where there is one. */
  destroy(slot: KeySlot): void {
    const entry = this.#slots[slot];
    if (entry === undefined || entry.state === 'empty') return;
    this.#wipe(slot);
    entry.state = 'empty';
    entry.vm = undefined;
    entry.keyBits = undefined;
  }

  /** Why `vm` may not use the slot, or undefined where it may. Allocates nothing. */
  refusal(slot: KeySlot, vm: VmId): SlotRefusal | undefined {
    const entry = this.#slots[slot];
    if (entry === undefined || entry.state === 'empty') return 'slot-empty';
    if (entry.vm !== undefined && entry.vm !== vm) return 'slot-of-another-vm';
    if (entry.state !== 'active') return 'slot-not-active';
    return undefined;
  }

  /**
   * The cipher of an active slot. It is the table's: do not close it, and ask anew for each access or
   * check `closed`, since revoke and destroy close it.
   * @throws KeySlotError with the refusal
   */
  cipher(slot: KeySlot): XtsCipher {
    const cipher = this.#ciphers[slot];
    if (cipher !== undefined) return cipher;
    const state = this.#slots[slot]?.state ?? 'empty';
    throw new KeySlotError(
      slot,
      `expected an active slot, got ${state === 'empty' ? 'an empty one' : `one that is ${state}`}`,
      state === 'empty' ? 'slot-empty' : 'slot-not-active',
    );
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

  /** Wipes every key and gives the memory back. Idempotent. */
  close(): void {
    if (this.#closed) return;
    for (const { slot } of this.list()) this.destroy(slot);
    for (const page of this.#pages.values()) page.release();
    this.#pages.clear();
    this.#closed = true;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  toJSON(): Record<string, unknown> {
    return { engine: this.engine, slots: this.list() };
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    const slots = this.list().map(
      ({ slot, state, vm, generation }) =>
        `${slot}: ${state}${vm === undefined ? '' : ` vm ${vm}`} generation ${generation}`,
    );
    return `KeyTable { ${this.engine}; ${slots.join(', ') || 'no keys'} }`;
  }

  #fill(
    slot: KeySlot,
    options: { readonly vm?: VmId; readonly keyBits?: 128 | 256 },
    write: (address: number, bytes: number) => void,
  ): void {
    if (this.#closed) throw new KeySlotError(slot, 'expected an open key table, got a closed one');
    const state = this.#slots[slot]?.state ?? 'empty';
    if (state !== 'empty') {
      throw new KeySlotError(
        slot,
        `expected an empty slot, got one that is ${state}: destroy it first`,
      );
    }
    const keyBits = options.keyBits ?? 256;
    if (keyBits !== 256 && keyBits !== 128) {
      throw new RangeError(`expected keyBits 256 or 128, got ${keyBits}`);
    }
    const bytes = keyBits === 128 ? 32 : 64;
    const address = this.#address(slot);
    try {
      write(address, bytes);
      if (libcrypto().compare(address, address + bytes / 2, bytes / 2) === 0)
        throw new WeakKeyError();
    } catch (error) {
      explicitBzero(address, SLOT_BYTES);
      throw error;
    }
    const generation = (this.#slots[slot]?.generation ?? 0) + 1;
    this.#slots[slot] = { state: 'loaded', vm: options.vm, generation, keyBits };
  }

  #wipe(slot: KeySlot): void {
    this.#ciphers[slot]?.close();
    this.#ciphers[slot] = undefined;
    explicitBzero(this.#address(slot), SLOT_BYTES);
  }

  #in(slot: KeySlot, action: string, ...states: SlotState[]): Slot {
    const entry = this.#slots[slot];
    const state = entry?.state ?? 'empty';
    if (entry === undefined || !states.includes(state)) {
      throw new KeySlotError(
        slot,
        `expected a slot that is ${states.join(' or ')} to ${action} it, got ${state}`,
      );
    }
    return entry;
  }

  #address(slot: KeySlot): number {
    const index = Math.floor(slot / SLOTS_PER_PAGE);
    let page = this.#pages.get(index);
    if (page === undefined) {
      page = new SecretPage(this.#memory);
      this.#pages.set(index, page);
    }
    return page.addressAt((slot % SLOTS_PER_PAGE) * SLOT_BYTES, SLOT_BYTES);
  }
}
