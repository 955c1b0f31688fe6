import type { KeyAnswers, KeyRequest, RotationWord } from './key-messages.ts';
import type { SealedFileCounters } from './sealed-file.ts';

/** What the device's process asks of the controller, over the IPC channel that started it. */
export type ControllerRequest =
  | {
      readonly op: 'create-memory';
      readonly name: string;
      readonly vm: number;
      /** The VM's own slot: fills and write-backs of the CPU's port go through it. */
      readonly slot: number;
      readonly bytes: number;
      /** Paths under /proc of the memfds that both processes map. */
      readonly dram: string;
      readonly gate: string;
    }
  /** Its slots' keys should be gone: what is in this memory cannot be had again. */
  | { readonly op: 'remove-memory'; readonly name: string }
  | KeyRequest
  | { readonly op: 'counters'; readonly name: string }
  | { readonly op: 'stop' };

/** What each request answers. */
export interface ControllerAnswers extends KeyAnswers {
  /** The RAM file, the file for messages of many DMA writes to it, and the one that flips bits of its DRAM. */
  'create-memory': { readonly path: string; readonly scatter: string; readonly errors: string };
  'remove-memory': null;
  counters: SealedFileCounters & { readonly dramPages: number; readonly residentBytes: number };
  stop: null;
}

export type ControllerMessage =
  | { readonly kind: 'ready'; readonly mountedBy: string; readonly writeBackLimitsLifted: boolean }
  | { readonly kind: 'unavailable'; readonly message: string }
  | { readonly kind: 'answer'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'refusal'; readonly id: number; readonly message: string }
  | RotationWord
  /** Something broke that no request asked for; the controller goes on. */
  | { readonly kind: 'failure'; readonly message: string };

export interface ControllerCall {
  readonly id: number;
  readonly request: ControllerRequest;
}
