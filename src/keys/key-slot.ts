/** Number of key slots in the table; a slot is an index from 0 to KEY_SLOTS - 1. */
export const KEY_SLOTS = 4096;

/**
 * Index into the key table. A device or a translation entry names the slot, never the key
 * (AMD ASID, Intel KeyID).
 */
export type KeySlot = number & { readonly __unit: 'key slot' };

/** @throws RangeError where it is not an index of the table. */
export function keySlot(index: number): KeySlot {
  if (!Number.isInteger(index) || index < 0 || index >= KEY_SLOTS) {
    throw new RangeError(`expected a key slot from 0 to ${KEY_SLOTS - 1}, got ${index}`);
  }
  return index as KeySlot;
}

/** See {@link IN_CLEAR}. */
export type InClear = number & { readonly __unit: 'in the clear' };

/**
 * In the place of a slot: an access with the C-bit clear, which goes through no key. It is for shared pages,
 * and finds ciphertext in private ones. (Intel's KeyID 0; no slot has this number.)
 */
export const IN_CLEAR = 0xffff_ffff as InClear;

/** What an access to memory goes through: the key of a slot, or none. */
export type AccessSlot = KeySlot | InClear;

export function isInClear(slot: AccessSlot): slot is InClear {
  // Beyond all slots. A comparison with the number itself, which is no small integer, costs each DMA more.
  return slot >= KEY_SLOTS;
}
