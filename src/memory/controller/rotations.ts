import type { KeySlot } from '../../keys/key-slot.ts';
import type { KeyTable } from '../../keys/key-table.ts';
import type { RotationDuty } from '../../keys/rotation-duty.ts';
import type { RotationProgress } from '../../keys/slot-keeper.ts';
import { type KeyBits, KeySlotError } from '../../keys/slot-lifecycle.ts';
import type { VmId } from '../../keys/vm-id.ts';
import type { Dram } from './dram.ts';
import { Rotation } from './rotation.ts';

/** How long they rest after a turn while guests are at memory: the least that a timer does. */
const REST_MS = 1;
/**
 * How long rotations go on where they need not rest, or may have nearly all, before the event loop gets to
 * timers and messages, a revocation among them.
 */
const TURN_MS = 0.25;
const TURN_MS_MAX = 10;
/** Guests are at memory until no request has come for so long. */
const QUIET_MS = 20;
/** How often the asker hears how far a rotation is. */
const TELL_MS = 100;

export interface RotationsOptions {
  readonly keys: KeyTable;
  /** The memories of a VM. */
  memories(vm: VmId): readonly Dram[];
  /** Answers the requests for memory that wait. */
  serve(): void;
  /** How many requests for memory came so far. */
  requests(): number;
  /** A rotation began, went on, ended. */
  tell(rotation: RotationProgress): void;
  /** A rotation broke, and was paused. */
  failure(error: unknown): void;
}

/**
 * The rotations that are under way, in the background of the requests for memory.
 *
 * A turn is: a step of one rotation, all requests that wait by then, a step of the next rotation, and so on
 * for a while; then the event loop goes round. So a request waits for one step, some microseconds, and a
 * rotation for the requests that the kernel has at one moment: neither can keep the other from ever getting on.
 *
 * What a rotation takes from a guest beside that is the CPU, which the guest and its devices may want
 * themselves. So while requests come, the thread rests for {@link REST_MS} after each turn, which is as long as
 * makes the part of the thread that a rotation may have: its duty, the largest one where several are under way.
 * Where no request has come for {@link QUIET_MS}, they have all of it.
 */
export class Rotations {
  readonly #options: RotationsOptions;
  /** By slot, in the order of their turns. Those that are over are not here. */
  readonly #rotations = new Map<KeySlot, Rotation>();
  #cancelTurn: (() => void) | undefined;
  #told = 0;
  #requests = 0;
  /** When the last of these was seen. */
  #requestSeen = Number.NEGATIVE_INFINITY;

  constructor(options: RotationsOptions) {
    this.#options = options;
  }

  /** Gives a slot a new key, and begins to move memory to it. @throws as KeyTable.rotate */
  begin(
    slot: KeySlot,
    {
      duty,
      ...source
    }: {
      readonly fd?: number | undefined;
      readonly keyBits?: KeyBits | undefined;
      readonly duty?: RotationDuty | undefined;
    },
  ): void {
    const { keys, memories, tell } = this.#options;
    keys.rotate(slot, source);
    const { vm, generation } = keys.describe(slot);
    const swept = vm === undefined ? [] : memories(vm);
    const rotation = new Rotation(slot, generation, swept, duty);
    this.#rotations.set(slot, rotation);
    tell(rotation.progress);
    this.#schedule();
  }

  /** Both keys stay in use. @throws KeySlotError where the slot is not being rotated */
  pause(slot: KeySlot): RotationProgress {
    return this.#become(slot, 'paused');
  }

  /** @throws KeySlotError where the slot is not being rotated */
  resume(slot: KeySlot): RotationProgress {
    return this.#become(slot, 'running');
  }

  /** The slot's keys were wiped: there is nothing to rotate any more. */
  drop(slot: KeySlot): void {
    const rotation = this.#rotations.get(slot);
    if (rotation === undefined) return;
    this.#rotations.delete(slot);
    rotation.state = 'ended';
    this.#options.tell(rotation.progress);
  }

  close(): void {
    this.#cancelTurn?.();
    this.#cancelTurn = undefined;
    this.#rotations.clear();
  }

  #become(slot: KeySlot, state: 'paused' | 'running'): RotationProgress {
    const rotation = this.#rotations.get(slot);
    if (rotation === undefined) {
      throw new KeySlotError(
        slot,
        `expected a slot that is being rotated, got one that is ${this.#options.keys.describe(slot).state}`,
      );
    }
    if (rotation.state !== state) {
      rotation.state = state;
      this.#options.tell(rotation.progress);
      this.#schedule();
    }
    return rotation.progress;
  }

  #schedule(): void {
    if (this.#cancelTurn !== undefined) return;
    const take = () => {
      this.#cancelTurn = undefined;
      this.#takeTurn();
    };
    if (this.#isQuiet() || this.#duty === 100) {
      const immediate = setImmediate(take);
      this.#cancelTurn = () => clearImmediate(immediate);
    } else {
      const timeout = setTimeout(take, REST_MS);
      this.#cancelTurn = () => clearTimeout(timeout);
    }
  }

  get #duty(): number {
    let most = 0;
    for (const { state, duty } of this.#rotations.values()) {
      if (state === 'running') most = Math.max(most, duty);
    }
    return most;
  }

  /** Turns of that length, with rests between them, have the duty. */
  get #turnMs(): number {
    const duty = this.#duty;
    return duty === 100 ? TURN_MS : Math.min((REST_MS * duty) / (100 - duty), TURN_MS_MAX);
  }

  #isQuiet(): boolean {
    const requests = this.#options.requests();
    const now = performance.now();
    if (requests !== this.#requests) this.#requestSeen = now;
    this.#requests = requests;
    return now - this.#requestSeen > QUIET_MS;
  }

  #takeTurn(): void {
    const { serve, tell } = this.#options;
    const begun = performance.now();
    const turnMs = this.#turnMs;
    const tells = begun - this.#told >= TELL_MS;
    if (tells) this.#told = begun;
    do {
      const rotation = this.#next();
      if (rotation === undefined) return;
      this.#step(rotation);
      // The connection may end here, and every rotation with it.
      serve();
    } while (performance.now() - begun < turnMs);
    if (tells) {
      for (const { state, progress } of this.#rotations.values()) {
        if (state === 'running') tell(progress);
      }
    }
    this.#schedule();
  }

  /** The one whose turn it is; it goes to the end of the row. */
  #next(): Rotation | undefined {
    for (const [slot, rotation] of this.#rotations) {
      if (rotation.state !== 'running') continue;
      this.#rotations.delete(slot);
      this.#rotations.set(slot, rotation);
      return rotation;
    }
    return undefined;
  }

  #step(rotation: Rotation): void {
    const { keys, tell, failure } = this.#options;
    const { slot } = rotation;
    try {
      const pair = keys.keysOf(slot);
      if (pair === undefined || !rotation.step(pair)) return;
      keys.finish(slot);
      this.#rotations.delete(slot);
      rotation.state = 'done';
    } catch (error) {
      rotation.state = 'paused';
      failure(error);
    }
    tell(rotation.progress);
  }
}
