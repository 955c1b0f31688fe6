import type { DmaAbort, DmaAccess, DmaPort, Iova } from '../../pci/index.ts';

/**
 * Accesses that are collected while commands are looked at, and done at once: one batch costs little
 * more than one access where memory is sealed. Accesses are kept and used again.
 */
export class DmaBatch<Owner> {
  readonly #accesses: DmaAccess[] = [];
  readonly #owners: Owner[] = [];
  #count = 0;

  get count(): number {
    return this.#count;
  }

  add(owner: Owner, iova: Iova, bytes: Uint8Array): void {
    const at = this.#count++;
    const access = this.#accesses[at];
    if (access === undefined) {
      this.#accesses.push({ iova, bytes, abort: undefined });
      this.#owners.push(owner);
      return;
    }
    access.iova = iova;
    access.bytes = bytes;
    this.#owners[at] = owner;
  }

  /** Reads all of it; `refused` hears of each access that was refused. The batch is empty then. */
  read(dma: DmaPort, refused: (owner: Owner, abort: DmaAbort) => void): void {
    const count = this.#take();
    if (count > 0 && dma.readBatch(this.#accesses, count) > 0) this.#refusals(count, refused);
  }

  /** As {@link read}, writing. */
  write(dma: DmaPort, refused: (owner: Owner, abort: DmaAbort) => void): void {
    const count = this.#take();
    if (count > 0 && dma.writeBatch(this.#accesses, count) > 0) this.#refusals(count, refused);
  }

  #take(): number {
    const count = this.#count;
    this.#count = 0;
    return count;
  }

  #refusals(count: number, refused: (owner: Owner, abort: DmaAbort) => void): void {
    for (let at = 0; at < count; at++) {
      const abort = this.#accesses[at]?.abort;
      if (abort !== undefined) refused(this.#owners[at] as Owner, abort);
    }
  }
}
