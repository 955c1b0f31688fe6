/**
 * The key table: slot → keys, on top of the slots' life (slot-lifecycle.ts). Keys never leave it: what it
 * gives out is ciphers that use the keys of a slot, and stop working the moment those are wiped.
 *
 * A key is wiped on entering `revoked` and `empty`, and the older of two at the end of a rotation.
 * @module
 */
import { libcrypto } from '../crypto/libcrypto.ts';
import { openXts } from '../crypto/open-xts.ts';
import { WeakKeyError, type XtsCipher, type XtsEngineName } from '../crypto/xts-cipher.ts';
import { explicitBzero } from '../ffi/libc.ts';
import { KEY_SLOTS, type KeySlot } from './key-slot.ts';
import { type KeyTag, keyTag } from './key-tag.ts';
import {
  fillRandom,
  readSecret,
  SECRET_PAGE_BYTES,
  type SecretMemoryKind,
  SecretPage,
} from './secret-memory.ts';
import {
  checkKeyBits,
  type KeyBits,
  KeySlotError,
  keyBytes,
  type SlotDescription,
  SlotLifecycle,
  type SlotRefusal,
} from './slot-lifecycle.ts';
import type { VmId } from './vm-id.ts';

export interface KeyTableOptions {
  /** `evp` unless told. With `node` and `noble` active keys are in the JavaScript heap too. */
  readonly engine?: XtsEngineName;
  /** What to hold keys in; `memfd_secret` unless told, which falls back where the kernel has none. */
  readonly memory?: SecretMemoryKind;
}

/**
 * The keys of a slot that serves, ready for use: one, or the newer and the older while the slot is rotated.
 * They are the table's, which closes them: do not keep this beyond an access.
 */
export interface SlotKeys {
  readonly tag: KeyTag;
  readonly cipher: XtsCipher;
  /** The older key, which the rotation moves memory away from. */
  readonly outgoing: { readonly tag: KeyTag; readonly cipher: XtsCipher } | undefined;
}

/** A slot has room for two generations of the longest key: the one in use, and its successor. */
const KEY_BYTES_MAX = 64;
const SLOT_BYTES = 2 * KEY_BYTES_MAX;
const SLOTS_PER_PAGE = SECRET_PAGE_BYTES / SLOT_BYTES;

export class KeyTable {
  readonly engine: XtsEngineName;
  readonly #life = new SlotLifecycle();
  /** Only slots that serve have any: the look-up of every access. */
  readonly #keys: (SlotKeys | undefined)[] = new Array(KEY_SLOTS).fill(undefined);
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
    options: { readonly vm?: VmId | undefined; readonly keyBits?: KeyBits } = {},
  ): void {
    this.#fill('generate', slot, options, fillRandom);
  }

  /**
   * Takes a key from a file descriptor, Key1 then Key2, 64 bytes (32 for 128 bits): empty → loaded.
   * The bytes go straight to secret memory; the descriptor stays open and is the caller's to close.
   * @throws KeySlotError, WeakKeyError for equal halves, Error where it holds too few bytes
   */
  load(
    slot: KeySlot,
    fd: number,
    options: { readonly vm?: VmId | undefined; readonly keyBits?: KeyBits } = {},
  ): void {
    this.#fill('load', slot, options, (address, bytes) => readSecret(fd, address, bytes));
  }

  /** Gives a loaded slot to a VM, once. @throws KeySlotError */
  bind(slot: KeySlot, vm: VmId): void {
    this.#life.bind(slot, vm);
  }

  /** loaded and bound → active: from here on the slot serves. @throws KeySlotError, XtsError */
  activate(slot: KeySlot): void {
    this.#life.check('activate', slot);
    const { generation, keyBits } = this.#life.describe(slot);
    const cipher = this.#open(slot, generation, keyBits ?? 256);
    this.#keys[slot] = { tag: keyTag(slot, generation), cipher, outgoing: undefined };
    this.#life.activate(slot);
  }

  /**
   * Puts a new key beside the one in use: active → rotating. From here on the slot writes under the new
   * one; both are there until {@link finish}.
   * @param source a descriptor that holds the key, as for {@link load}; a random key where there is none.
   * @throws as {@link load}, {@link activate}; then the slot is as it was
   */
  rotate(
    slot: KeySlot,
    source: { readonly fd?: number | undefined; readonly keyBits?: KeyBits | undefined } = {},
  ): void {
    this.#life.check('rotate', slot);
    const before = this.#keys[slot] as SlotKeys;
    const { generation, keyBits: bits } = this.#life.describe(slot);
    const keyBits = checkKeyBits(source.keyBits ?? bits ?? 256);
    const { fd } = source;
    const next = generation + 1;
    this.#put(slot, next, keyBits, (address, bytes) =>
      fd === undefined ? fillRandom(address, bytes) : readSecret(fd, address, bytes),
    );
    let cipher: XtsCipher;
    try {
      cipher = this.#open(slot, next, keyBits);
    } catch (error) {
      explicitBzero(this.#address(slot, next), KEY_BYTES_MAX);
      throw error;
    }
    const outgoing = { tag: before.tag, cipher: before.cipher };
    this.#keys[slot] = { tag: keyTag(slot, next), cipher, outgoing };
    this.#life.rotate(slot, keyBits);
  }

  /** Wipes the older key: rotating → active. Nothing may be under it any more. @throws KeySlotError */
  finish(slot: KeySlot): void {
    this.#life.finish(slot);
    const { tag, cipher, outgoing } = this.#keys[slot] as SlotKeys;
    this.#keys[slot] = { tag, cipher, outgoing: undefined };
    outgoing?.cipher.close();
    explicitBzero(this.#address(slot, this.#life.describe(slot).generation - 1), KEY_BYTES_MAX);
  }

  /** loaded, active or rotating → revoked, at once: every key of the slot is wiped. @throws KeySlotError */
  revoke(slot: KeySlot): void {
    this.#life.revoke(slot);
    this.#wipe(slot);
  }

  /** Any state → empty, unbound; wipes the keys where there are any. */
  destroy(slot: KeySlot): void {
    if (this.#life.destroy(slot)) this.#wipe(slot);
  }

  /** Why `vm` may not use the slot, or undefined where it may. Allocates nothing. */
  refusal(slot: KeySlot, vm: VmId): SlotRefusal | undefined {
    return this.#life.refusal(slot, vm);
  }

  /** The keys of a slot that serves, whoever it serves. */
  keysOf(slot: KeySlot): SlotKeys | undefined {
    return this.#keys[slot];
  }

  /** The keys of a slot that serves `vm`, or undefined where {@link refusal} says why not. */
  keysFor(slot: KeySlot, vm: VmId): SlotKeys | undefined {
    return this.#life.refusal(slot, vm) === undefined ? this.#keys[slot] : undefined;
  }

  /**
   * The newest cipher of a slot that serves. It is the table's: do not close it, and ask anew for each
   * access or check `closed`, since revoke and destroy close it.
   * @throws KeySlotError with the refusal
   */
  cipher(slot: KeySlot): XtsCipher {
    const cipher = this.#keys[slot]?.cipher;
    if (cipher !== undefined) return cipher;
    const { state } = this.#life.describe(slot);
    throw new KeySlotError(
      slot,
      `expected an active slot, got ${state === 'empty' ? 'an empty one' : `one that is ${state}`}`,
      state === 'empty' ? 'slot-empty' : 'slot-not-active',
    );
  }

  describe(slot: KeySlot): SlotDescription {
    return this.#life.describe(slot);
  }

  /** The slots that are not empty, in order. */
  list(): SlotDescription[] {
    return this.#life.list();
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
    step: 'generate' | 'load',
    slot: KeySlot,
    options: { readonly vm?: VmId | undefined; readonly keyBits?: KeyBits },
    write: (address: number, bytes: number) => void,
  ): void {
    if (this.#closed) throw new KeySlotError(slot, 'expected an open key table, got a closed one');
    this.#life.check(step, slot);
    const keyBits = checkKeyBits(options.keyBits ?? 256);
    this.#put(slot, this.#life.describe(slot).generation + 1, keyBits, write);
    this.#life.fill(step, slot, { vm: options.vm, keyBits });
  }

  /** Has a key written to the room of a generation, and refuses one with equal halves. */
  #put(
    slot: KeySlot,
    generation: number,
    keyBits: KeyBits,
    write: (address: number, bytes: number) => void,
  ): void {
    const bytes = keyBytes(keyBits);
    const address = this.#address(slot, generation);
    try {
      write(address, bytes);
      if (libcrypto().compare(address, address + bytes / 2, bytes / 2) === 0)
        throw new WeakKeyError();
    } catch (error) {
      explicitBzero(address, KEY_BYTES_MAX);
      throw error;
    }
  }

  #open(slot: KeySlot, generation: number, keyBits: KeyBits): XtsCipher {
    const key = { address: this.#address(slot, generation), bytes: keyBytes(keyBits) };
    return openXts(key, this.engine);
  }

  #wipe(slot: KeySlot): void {
    const keys = this.#keys[slot];
    this.#keys[slot] = undefined;
    keys?.cipher.close();
    keys?.outgoing?.cipher.close();
    explicitBzero(this.#address(slot, 0), SLOT_BYTES);
  }

  /** Generations take the two places of a slot in turn. */
  #address(slot: KeySlot, generation: number): number {
    const index = Math.floor(slot / SLOTS_PER_PAGE);
    let page = this.#pages.get(index);
    if (page === undefined) {
      page = new SecretPage(this.#memory);
      this.#pages.set(index, page);
    }
    const at = (slot % SLOTS_PER_PAGE) * SLOT_BYTES + (generation % 2) * KEY_BYTES_MAX;
    return page.addressAt(at, KEY_BYTES_MAX);
  }
}
