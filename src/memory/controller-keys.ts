import { keyIsWaiting } from '../keys/key-descriptor.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import type {
  KeyOptions,
  RotateOptions,
  RotationListener,
  RotationProgress,
  SlotKeeper,
  SlotListener,
} from '../keys/slot-keeper.ts';
import {
  checkKeyBits,
  keyBytes,
  type SlotDescription,
  type SlotStep,
} from '../keys/slot-lifecycle.ts';
import type { VmId } from '../keys/vm-id.ts';
import type { KeyAnswers, KeyRequest, RotationWord } from './controller/key-messages.ts';

/** Sends a request. `onAnswer` is called as the answer comes, before what came after it. */
export type AskKeys = <Op extends KeyRequest['op']>(
  request: Extract<KeyRequest, { op: Op }>,
  onAnswer?: (answer: KeyAnswers[Op]) => void,
) => Promise<KeyAnswers[Op]>;

/** The key table of a memory controller, as the device's process has it: to be asked, never to be read. */
export class ControllerKeys implements SlotKeeper {
  readonly #ask: AskKeys;
  /** Hands a descriptor to the controller. @returns the number that a request names it by. */
  readonly #handOver: (descriptor: number) => number;
  readonly #slotListeners = new Set<SlotListener>();
  readonly #rotationListeners = new Set<RotationListener>();
  /** Rotations that are not over, as the controller last told of them. */
  readonly #underWay = new Map<KeySlot, RotationWord>();

  constructor(ask: AskKeys, handOver: (descriptor: number) => number) {
    this.#ask = ask;
    this.#handOver = handOver;
  }

  generate(slot: KeySlot, { vm, keyBits = 256 }: KeyOptions = {}): Promise<SlotDescription> {
    return this.#ask({ op: 'generate-key', slot, vm, keyBits }, this.#by('generate'));
  }

  async load(
    slot: KeySlot,
    descriptor: number,
    { vm, keyBits = 256 }: KeyOptions = {},
  ): Promise<SlotDescription> {
    await keyIsWaiting(descriptor, keyBytes(checkKeyBits(keyBits)));
    const request = { op: 'load-key', slot, vm, keyBits } as const;
    return await this.#ask(
      { ...request, descriptor: this.#handOver(descriptor) },
      this.#by('load'),
    );
  }

  bind(slot: KeySlot, vm: VmId): Promise<SlotDescription> {
    return this.#ask({ op: 'bind-key', slot, vm }, this.#by('bind'));
  }

  activate(slot: KeySlot): Promise<SlotDescription> {
    return this.#ask({ op: 'activate-key', slot }, this.#by('activate'));
  }

  /** Without `keyBits` a descriptor is taken to hold a key of 256 bits. */
  async rotate(
    slot: KeySlot,
    { descriptor, keyBits, duty }: RotateOptions = {},
  ): Promise<SlotDescription> {
    const request = { op: 'rotate-key', slot, keyBits, duty } as const;
    if (descriptor === undefined) return await this.#ask(request, this.#by('rotate'));
    await keyIsWaiting(descriptor, keyBytes(checkKeyBits(keyBits ?? 256)));
    return await this.#ask(
      { ...request, descriptor: this.#handOver(descriptor) },
      this.#by('rotate'),
    );
  }

  pause(slot: KeySlot): Promise<RotationProgress> {
    return this.#ask({ op: 'pause-rotation', slot });
  }

  resume(slot: KeySlot): Promise<RotationProgress> {
    return this.#ask({ op: 'resume-rotation', slot });
  }

  revoke(slot: KeySlot): Promise<SlotDescription> {
    return this.#ask({ op: 'revoke-key', slot }, this.#by('revoke'));
  }

  destroy(slot: KeySlot): Promise<SlotDescription> {
    return this.#ask({ op: 'destroy-key', slot }, this.#by('destroy'));
  }

  onSlot(listener: SlotListener): () => void {
    this.#slotListeners.add(listener);
    return () => this.#slotListeners.delete(listener);
  }

  onRotation(listener: RotationListener): () => void {
    this.#rotationListeners.add(listener);
    return () => this.#rotationListeners.delete(listener);
  }

  /** The controller told of a rotation. */
  take(word: RotationWord): void {
    const { progress } = word;
    const goesOn = progress.state === 'running' || progress.state === 'paused';
    if (goesOn) this.#underWay.set(progress.slot, word);
    else this.#underWay.delete(progress.slot);
    this.#by(undefined)(word.slot);
    for (const listener of this.#rotationListeners) listener(progress);
  }

  /** The controller is gone, and its keys with it. */
  lost(): void {
    for (const { kind, progress, slot } of [...this.#underWay.values()]) {
      const ended = { ...progress, state: 'ended' as const };
      this.take({ kind, progress: ended, slot: { ...slot, state: 'revoked' } });
    }
  }

  #by(step: SlotStep | undefined): (slot: SlotDescription) => void {
    return (slot) => {
      for (const listener of this.#slotListeners) listener(slot, step);
    };
  }
}
