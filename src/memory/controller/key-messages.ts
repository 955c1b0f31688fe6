import type { RotationProgress } from '../../keys/slot-keeper.ts';
import type { KeyBits, SlotDescription } from '../../keys/slot-lifecycle.ts';

/** What the device's process asks of the key table. Slots and VMs are numbers here, to be checked. */
export type KeyRequest =
  | {
      readonly op: 'generate-key';
      readonly slot: number;
      readonly vm?: number | undefined;
      readonly keyBits: KeyBits;
    }
  | {
      readonly op: 'load-key';
      readonly slot: number;
      readonly vm?: number | undefined;
      readonly keyBits: KeyBits;
      /** The number of a descriptor on the descriptor channel. */
      readonly descriptor: number;
    }
  | { readonly op: 'bind-key'; readonly slot: number; readonly vm: number }
  | { readonly op: 'activate-key'; readonly slot: number }
  | {
      readonly op: 'rotate-key';
      readonly slot: number;
      readonly keyBits?: KeyBits | undefined;
      /** Percent, to be checked. */
      readonly duty?: number | undefined;
      readonly descriptor?: number | undefined;
    }
  | { readonly op: 'pause-rotation'; readonly slot: number }
  | { readonly op: 'resume-rotation'; readonly slot: number }
  | { readonly op: 'revoke-key'; readonly slot: number }
  | { readonly op: 'destroy-key'; readonly slot: number };

/** Descriptions and counts: a key is in none of them. */
export interface KeyAnswers {
  'generate-key': SlotDescription;
  'load-key': SlotDescription;
  'bind-key': SlotDescription;
  'activate-key': SlotDescription;
  'rotate-key': SlotDescription;
  'pause-rotation': RotationProgress;
  'resume-rotation': RotationProgress;
  'revoke-key': SlotDescription;
  'destroy-key': SlotDescription;
}

/** A word of a rotation that no request asked for, and what its slot then is. */
export interface RotationWord {
  readonly kind: 'rotation';
  readonly progress: RotationProgress;
  readonly slot: SlotDescription;
}
