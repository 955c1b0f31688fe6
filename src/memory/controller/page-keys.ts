import { BLOCK_BYTES, PAGE_BYTES } from '../../crypto/xts-cipher.ts';
import type { KeyTag } from '../../keys/key-tag.ts';

/** A page that was never written: under no key. */
export const NEVER_WRITTEN = 0;
/** A page whose blocks are not all under one key; {@link PageKeys.blocks} has them. */
export const MIXED = 0xffff_ffff;
/** A shared page: under no key, whatever was written to it. No key has this tag: it is generation 2^20-1 of slot 0. */
export const SHARED = 0x000f_ffff;
export const BLOCKS_PER_PAGE = PAGE_BYTES / BLOCK_BYTES;

/**
 * Which key each page of DRAM is under: 32 bits a page.
 *
 * What counts is who wrote last, by blocks of 16 bytes, as the engine works by them. Nearly every page
 * is under one key from end to end. A DMA under another slot of the VM that writes a part of a page leaves
 * it mixed: the rest is still under the old slot's key, as it would be in hardware. Such a page has a record of
 * 1 KiB more, until one key has all of it again.
 */
export class PageKeys {
  /** The key of each page, or one of the two words above. For looking; changed through this class alone. */
  readonly tags: Uint32Array;
  readonly #blocks = new Map<number, Uint32Array>();
  #sharedPages = 0;

  constructor(pages: number) {
    this.tags = new Uint32Array(pages);
  }

  /** How many pages hold ciphertext. */
  get writtenPages(): number {
    return this.tags.reduce(
      (sum, tag) => (tag === NEVER_WRITTEN || tag === SHARED ? sum : sum + 1),
      0,
    );
  }

  get sharedPages(): number {
    return this.#sharedPages;
  }

  share(page: number): void {
    if (this.tags[page] === SHARED) return;
    this.#blocks.delete(page);
    this.tags[page] = SHARED;
    this.#sharedPages++;
  }

  /** @param tag the key that all of the page is under, or {@link NEVER_WRITTEN} */
  makePrivate(page: number, tag: KeyTag | typeof NEVER_WRITTEN): void {
    if (this.tags[page] === SHARED) this.#sharedPages--;
    this.#blocks.delete(page);
    this.tags[page] = tag;
  }

  /** The key of each block of a mixed page. @throws Error where the page is not mixed */
  blocks(page: number): Readonly<Uint32Array> {
    const blocks = this.#blocks.get(page);
    if (blocks !== undefined) return blocks;
    throw new Error(`expected page ${page} under several keys, got one under one`);
  }

  /** Whole pages were written, from `first` up to `after`. Those that are shared stay so. */
  set(first: number, after: number, tag: KeyTag): void {
    if (this.#sharedPages > 0) {
      for (let page = first; page < after; page++) {
        if (this.tags[page] !== SHARED) this.makePrivate(page, tag);
      }
      return;
    }
    if (this.#blocks.size > 0) {
      for (let page = first; page < after; page++) this.#blocks.delete(page);
    }
    this.tags.fill(tag, first, after);
  }

  /** Blocks of a page that is no new one were written, from `first` up to `after`. */
  setBlocks(page: number, first: number, after: number, tag: KeyTag): void {
    const before = this.tags[page];
    if (before === tag || before === SHARED) return;
    const blocks =
      this.#blocks.get(page) ?? new Uint32Array(BLOCKS_PER_PAGE).fill(before ?? NEVER_WRITTEN);
    blocks.fill(tag, first, after);
    if (blocks.every((each) => each === tag)) {
      this.set(page, page + 1, tag);
    } else {
      this.#blocks.set(page, blocks);
      this.tags[page] = MIXED;
    }
  }
}
