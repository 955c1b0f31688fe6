/**
 * The rotation of one slot: a sweep over the DRAM of the slot's VM that encrypts anew, under the slot's new
 * key, what is under its old one, while the guest runs.
 *
 * ## Why nothing is lost, and nothing stays behind
 *
 * - *Every step is between two accesses.* The controller has one thread. A step moves a few pages whole, from
 *   ciphertext under the old key to ciphertext under the new, and says so in the record of each; then come
 *   the requests that wait. So each cache fill, write-back and DMA finds each page under one key, the one
 *   that its record names, whether the sweep has passed it or not. There is no page that has to be held
 *   back, and no request that waits for more than a step.
 * - *Writes go forward only.* From the first moment of the rotation on, whatever is written under the slot is
 *   written under the new key. A write of a part of a page that is under the old key moves the page first,
 *   as a step would (Dram.write). So nothing comes under the old key any more, and behind the sweep nothing
 *   is: one pass over all pages is enough, and after it the old key opens nothing and is wiped. A memory
 *   that the VM gets meanwhile never has anything under the old key.
 * - *The plaintext does not change.* The page cache holds plaintext, and what it has of a page is as good
 *   after the move as before. A dirty page of the cache comes back as a write-back, under the new key. A
 *   DMA that met a refill tries again, and may find the page moved. Nothing in the argument of dma-gate.ts
 *   is about keys.
 * - *A DMA under the slot* does not say which generation: reads take what the record says, writes the new
 *   one.
 * - *Pages never written* are zeros under any key. There is nothing to move, and the first write is under
 *   the new one.
 * - *Shared pages* are under no key (shared-pages.ts): their tag is no key's, so the sweep passes them by, and what is
 *   written to them leaves it. A conversion is an access like any other, between two steps. What becomes private is
 *   encrypted under the new key, so nothing comes under the old one behind the sweep; what becomes shared is
 *   decrypted under the key that its record names, and then is nothing that would have to be moved.
 * - *Whose a page is* was decided by who wrote it last, block by block (page-keys.ts). Where a DMA under
 *   another slot of the VM has written a part of a page, those blocks are under that slot's key. The rotation of
 *   this slot leaves them: it has not got that key, and decrypting them with this one would make noise of
 *   them for the slot that they belong to. The rotation of that slot finds them, for it sweeps all memory of
 *   its VM, whatever slot the CPU's port has. A write-back of the whole page makes it this slot's again, as in
 *   hardware. What is under a key that was wiped (a slot that was destroyed and filled again) stays the
 *   noise that it is.
 * - *Revoked or destroyed in the middle*: both keys are wiped, and some pages are under the one, some under the
 *   other; none can be read any more.
 * - *The controller dies in the middle*: DRAM is volatile, here as in hardware. It goes with the keys, and with the
 *   guest; there is no state on a disk that could be half moved.
 * @module
 */
import type { KeySlot } from '../../keys/key-slot.ts';
import type { SlotKeys } from '../../keys/key-table.ts';
import { ROTATION_DUTY_DEFAULT, type RotationDuty } from '../../keys/rotation-duty.ts';
import type { RotationProgress } from '../../keys/slot-keeper.ts';
import type { Dram } from './dram.ts';

export class Rotation {
  readonly slot: KeySlot;
  readonly generation: number;
  readonly duty: RotationDuty;
  state: RotationProgress['state'] = 'running';
  readonly #memories: readonly Dram[];
  readonly #pages: number;
  /** The sweep is at this page of this memory. */
  #memory = 0;
  #page = 0;
  #passedPages = 0;
  #movedPages = 0;
  #workMs = 0;

  /** @param memories all that the slot's VM has as the rotation begins */
  constructor(
    slot: KeySlot,
    generation: number,
    memories: readonly Dram[],
    duty: RotationDuty = ROTATION_DUTY_DEFAULT,
  ) {
    this.slot = slot;
    this.generation = generation;
    this.duty = duty;
    this.#memories = memories;
    this.#pages = memories.reduce((sum, { pages }) => sum + pages, 0);
  }

  /** Some microseconds of work. @returns whether the sweep is over. @throws XtsError */
  step(keys: SlotKeys): boolean {
    const dram = this.#memories[this.#memory];
    if (dram === undefined) return true;
    const begun = performance.now();
    const { next, moved } = dram.rekey(keys, this.#page);
    this.#workMs += performance.now() - begun;
    this.#passedPages += next - this.#page;
    this.#movedPages += moved;
    this.#page = next;
    if (next === dram.pages) {
      this.#memory++;
      this.#page = 0;
    }
    return this.#memory === this.#memories.length;
  }

  get progress(): RotationProgress {
    return {
      slot: this.slot,
      generation: this.generation,
      state: this.state,
      pages: this.#pages,
      passedPages: this.#passedPages,
      movedPages: this.#movedPages,
      workMs: this.#workMs,
    };
  }
}
