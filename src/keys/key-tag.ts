import type { KeySlot } from './key-slot.ts';

/**
 * Names a key without being one: its slot and its generation there, in 32 bits. No key has the tag 0, nor
 * {@link KEY_TAG_MAX} + 1.
 */
export type KeyTag = number & { readonly __unit: 'key tag' };

const GENERATION_BITS = 20;

/** So many keys may a slot have one after the other; they are counted from 1. */
export const GENERATION_MAX = 2 ** GENERATION_BITS - 2;

export const KEY_TAG_MAX = 2 ** 32 - 2;

/** @throws RangeError where no slot has a key of that generation. */
export function keyTag(slot: KeySlot, generation: number): KeyTag {
  if (!Number.isInteger(generation) || generation < 1 || generation > GENERATION_MAX) {
    throw new RangeError(
      `expected a key's generation from 1 to ${GENERATION_MAX}, got ${generation}`,
    );
  }
  return (slot * 2 ** GENERATION_BITS + generation) as KeyTag;
}
