import { keyIsWaiting } from '../keys/key-descriptor.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import type {
  KeyOptions,
  RotateOptions,
  RotationListener,
  RotationProgress,
  SlotKeeper,
} from '../keys/slot-keeper.ts';
import { checkKeyBits, keyBytes, type SlotDescription } from '../keys/slot-lifecycle.ts';
import type { VmId } from '../keys/vm-id.ts';
import type { KeyAnswers, KeyRequest, RotationWord } from './controller/key-messages.ts';

/** Sends a request, with a descriptor beside it where there is one. */
export type AskKeys = <Op extends KeyRequest['op']>(
  request: Extract<KeyRequest, { op: Op }>,
) => Promise<KeyAnswers[Op]>;

/** The key table of a memory controller, as the device's process has it: to be asked, never to be read. */
export class ControllerKeys implements SlotKeeper {
  readonly #ask: AskKeys;
  /** Hands a descriptor to the controller. @returns the number that a request names it by. */
  readonly #handOver: (descriptor: number) => number;
  readonly #listeners = new Set<RotationListener>();
  /** Rotations that are not over, as the controller last told of them. */
  readonly #underWay = new Map<KeySlot, RotationWord>();

  constructor(ask: AskKeys, handOver: (descriptor: number) => number) {
    this.#ask = ask;
    this.#handOver = handOver;
  }

  generate(slot: KeySlot, { vm, keyBits = 256 }: KeyOptions = {}): Promise<SlotDescription> {
    return this.#ask({ op: 'generate-key', slot, vm, keyBits });
  }

  async load(
    slot: KeySlot,
    descriptor: number,
    { vm, keyBits = 256 }: KeyOptions = {},
  ): Promise<SlotDescription> {
    await keyIsWaiting(descriptor, keyBytes(checkKeyBits(keyBits)));
    return this.#ask({
      ...{ op: 'load-key', slot, vm, keyBits },
      descriptor: this.#handOver(descriptor),
    });
  }

  bind(slot: KeySlot, vm: VmId): Promise<SlotDescription> {
    return this.#ask({ op: 'bind-key', slot, vm });
  }

  activate(slot: KeySlot): Promise<SlotDescription> {
    return this.#ask({ op: 'activate-key', slot });
  }

  async rotate(
    slot: KeySlot,
    { descriptor, keyBits }: RotateOptions = {},
  ): Promise<SlotDescription> {
    if (descriptor === undefined) return this.#ask({ op: 'rotate-key', slot, keyBits });
    await keyIsWaiting(descriptor, keyBytes(checkKeyBits(keyBits ?? 256)));
    return this.#ask({
      ...{ op: 'rotate-key', slot, keyBits },
      descriptor: this.#handOver(descriptor),
    });
  }

  pause(slot: KeySlot): Promise<RotationProgress> {
    return this.#ask({ op: 'pause-rotation', slot });
  }

  resume(slot: KeySlot): Promise<RotationProgress> {
    return this.#ask({ op: 'resume-rotation', slot });
  }

  revoke(slot: KeySlot): Promise<SlotDescription> {
    return this.#ask({ op: 'revoke-key', slot });
  }

  destroy(slot: KeySlot): Promise<SlotDescription> {
    return this.#ask({ op: 'destroy-key', slot });
  }

  onRotation(listener: RotationListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The controller told of a rotation. */
  take(word: RotationWord): void {
    const { progress } = word;
    const goesOn = progress.state === 'running' || progress.state === 'paused';
    if (goesOn) this.#underWay.set(progress.slot, word);
    else this.#underWay.delete(progress.slot);
    for (const listener of this.#listeners) listener(progress, word.slot);
  }

  /** The controller is gone, and its keys with it. */
  lost(): void {
    for (const { kind, progress, slot } of [...this.#underWay.values()]) {
      const ended = { ...progress, state: 'ended' as const };
      this.take({ kind, progress: ended, slot: { ...slot, state: 'revoked' } });
    }
  }
}
