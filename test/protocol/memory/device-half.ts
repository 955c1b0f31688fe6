import type { KeySlot } from '../../../src/keys/key-slot.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import type { SealedMemory } from '../../../src/memory/sealed-memory.ts';

/**
 * A device that reads and writes anywhere in the first half of each of some pages, which is its own, and
 * knows what it should find; vcpu-worker.ts has the second half.
 */
export class DeviceHalf {
  lost = 0;
  writes = 0;
  reads = 0;
  readonly #memory: SealedMemory;
  readonly #slot: KeySlot;
  readonly #offset: number;
  readonly #expected: readonly Uint8Array[];
  #state = 4711;

  constructor(memory: SealedMemory, slot: KeySlot, offset: number, pages: number) {
    this.#memory = memory;
    this.#slot = slot;
    this.#offset = offset;
    this.#expected = Array.from({ length: pages }, () => new Uint8Array(2048));
  }

  /** One access of 1 to 2,048 bytes. */
  access(): void {
    const page = this.#random(this.#expected.length);
    const own = this.#expected[page] as Uint8Array;
    const at = this.#random(2047);
    const length = 1 + this.#random(2048 - at);
    const address = gpa(this.#offset + page * 4096 + at);
    const bytes = own.subarray(at, at + length);
    if (this.#random(2) === 0) {
      for (let i = 0; i < length; i++) bytes[i] = this.#random(256);
      this.#memory.write(address, this.#slot, bytes);
      this.writes++;
    } else {
      const into = new Uint8Array(length);
      this.#memory.read(address, this.#slot, into);
      if (Buffer.compare(into, bytes) !== 0) this.lost++;
      this.reads++;
    }
  }

  #random(below: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * below);
  }
}
