/**
 * Which pages of a RAM file are shared, as the device's process knows it: the DMA ports ask it whether an
 * access meets a page of the other kind.
 *
 * ## Private and shared
 *
 * Every page is private until somebody shares it: DRAM has its ciphertext, under the VM's slot. A shared page is
 * in DRAM in the clear. Who accesses it says how, and the page does not change that:
 *
 * - *A device* says so by what its access goes through, which the IOMMU resolved: the key of a slot, or no key
 *   (IN_CLEAR, the C-bit clear). Where that does not fit the page, the access is done as SEV does it: a read
 *   through the key decrypts what never was encrypted, a read without it finds ciphertext, and a write leaves
 *   the page so that its own kind of access finds noise. Nothing is disclosed that whoever has the memory modules
 *   could not see. The IOMMU records each such access.
 * - *The CPU's port* takes each page as it is held. A guest's kernel under SEV has a C-bit in its page tables,
 *   and keeps it in step with the page's state; the guests here are stock, have no such bit, and their CPU's
 *   cache, the page cache of the RAM file, has one view of a page. So the host keeps the two in step for them.
 *
 * ## Why a conversion loses nothing
 *
 * A conversion is an access to whole pages through the DMA gate, whose entry says what is to become of them.
 *
 * - *Content kept: a direct read.* The kernel writes the dirty pages of the range back before it sends the READ
 *   (dma-gate.ts), so DRAM has all that was stored before. The controller encrypts the pages, or decrypts
 *   them, and notes their state, on the thread that answers fills, write-backs and DMA: each of these finds
 *   a page in one state, and DRAM as that state says. The cache need not give the pages up, as a rotation
 *   need not (rotation.ts): it has plaintext, which is as good after the conversion as before, and a
 *   store that comes later comes as a write-back, which is served by the state that the page then has.
 * - *Content discarded: a direct write of zeros.* Here the cache has what must not come back, so the pages have
 *   to be out of it: the kernel writes back and drops, and the controller looks at the counts of fills, all as
 *   for a DMA write; a page that was filled meanwhile is tried again. A store that comes after is a store to
 *   the zeros.
 * - *DMA in flight.* There is none: DMA and conversions are system calls of one thread, over on return.
 * - *No plaintext of a private page is in DRAM.* Pages become shared, then DRAM has them in the clear; DRAM has
 *   them encrypted, then they become private. Who looks at DRAM while a conversion is under way sees
 *   a page that is shared at its one end.
 * - *A rotation* passes shared pages by: they are under no key. What becomes private is under the newer one.
 * - *A slot that was revoked* converts nothing of which the content is to be kept. To discard takes no key.
 * - *A long one takes many turns* of the event loop, a chunk each. A chunk is all of the above by itself: between two
 *   there may be DMA, fills, a rotation's steps, its beginning or its end. Every chunk asks anew for the slot's
 *   keys, for the file and for where the VMM says that RAM is; where one of them has gone it stops, says how far it
 *   came, and what was converted by then is as if that alone had been asked for. Another conversion of the same
 *   RAM waits for its end (ConversionOrder), so that two never take turns over the same pages.
 * @module
 */
import { type AccessSlot, isInClear } from '../keys/key-slot.ts';

const PAGE_BYTES = 4096;

export class SharedPages {
  readonly #shared: Uint8Array;
  #count = 0;
  #conversions = 0;

  /** @param bytes size of the RAM file */
  constructor(bytes: number) {
    this.#shared = new Uint8Array(bytes / PAGE_BYTES);
  }

  /** How many there are. */
  get count(): number {
    return this.#count;
  }

  /** How many pages were converted so far, each as often as it was. */
  get conversions(): number {
    return this.#conversions;
  }

  /** Whole pages have become shared, or private. */
  set(offset: number, length: number, shared: boolean): void {
    this.#conversions += length / PAGE_BYTES;
    const first = offset / PAGE_BYTES;
    const pages = this.#shared.subarray(first, first + length / PAGE_BYTES);
    for (const before of pages) this.#count += (shared ? 1 : 0) - before;
    pages.fill(shared ? 1 : 0);
  }

  /** Runs of shared pages that lie whole in a range of the file, in order. */
  *runs(offset: number, length: number): Generator<{ offset: number; length: number }> {
    if (this.#count === 0) return;
    const begin = Math.ceil(offset / PAGE_BYTES);
    const pages = this.#shared.subarray(begin, Math.floor((offset + length) / PAGE_BYTES));
    for (let first = pages.indexOf(1); first >= 0; ) {
      const after = pages.indexOf(0, first);
      const end = after < 0 ? pages.length : after;
      yield { offset: (begin + first) * PAGE_BYTES, length: (end - first) * PAGE_BYTES };
      first = after < 0 ? -1 : pages.indexOf(1, after);
    }
  }

  /** Whether an access meets a page of the other kind. */
  crosses(slot: AccessSlot, offset: number, length: number): boolean {
    const clear = isInClear(slot);
    const other = clear ? 0 : 1;
    const last = Math.floor((offset + length - 1) / PAGE_BYTES);
    for (let page = Math.floor(offset / PAGE_BYTES); page <= last; page++) {
      if (this.#shared[page] === other) return true;
    }
    return false;
  }
}
