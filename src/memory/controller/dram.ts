import { BLOCK_BYTES, PAGE_BYTES, type XtsCipher } from '../../crypto/xts-cipher.ts';
import {
  copyFromAddress,
  copyNative,
  copyToAddress,
  explicitBzero,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
} from '../../ffi/libc.ts';
import type { SlotKeys } from '../../keys/key-table.ts';
import type { KeyTag } from '../../keys/key-tag.ts';
import { MIXED, NEVER_WRITTEN, PageKeys, SHARED } from './page-keys.ts';

/** Pages that {@link Dram.rekey} moves at once: what one call of the engine does in some microseconds. */
const PAGES_A_MOVE = 16;
/** Pages that it looks at in one call, where nothing is to be moved. */
const PAGES_A_LOOK = 4096;
const SCRATCH_BYTES = PAGES_A_MOVE * PAGE_BYTES;

/**
 * DRAM: what lies outside the package. It holds ciphertext, and shared pages in the clear; plaintext of a
 * private page is only ever the source of an encryption into it or the destination of a decryption out of it.
 *
 * A page that was never written holds zeros, stands for zeros under any key, and is not decrypted. Of every
 * other page it is known which key it is under (page-keys.ts). An access names the slot that it goes through,
 * and takes the keys of that slot: what is under its older key is read with that, all else with its newer one,
 * which finds noise in what is under another slot's key or under one that was wiped. It writes under the newer
 * one alone; see rotation.ts for what that is good for. An access to a shared page through a key is no other,
 * but the page stays shared; an access in the clear takes the bytes as they lie.
 *
 * All calls are on the controller's one thread, so no unit is ever seen half encrypted by another
 * call; who maps the memfd from outside sees ciphertext, old or new.
 */
export class Dram {
  readonly bytes: number;
  readonly #address: number;
  readonly #keys: PageKeys;
  /** Plaintext of pages that move from key to key: inside the package. */
  readonly #scratch: number;
  #closed = false;

  /**
   * @param fd a memfd of at least `bytes`, mapped here until {@link close}.
   * @param bytes a multiple of the page size.
   */
  constructor(fd: number, bytes: number) {
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % PAGE_BYTES !== 0) {
      throw new RangeError(`expected DRAM in whole pages of ${PAGE_BYTES} bytes, got ${bytes}`);
    }
    this.bytes = bytes;
    this.#address = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    this.#keys = new PageKeys(bytes / PAGE_BYTES);
    this.#scratch = mmap(0, SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  }

  /** Lets go of its memory. Nothing may read or write it any more; a rotation finds nothing to move. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    munmap(this.#address, this.bytes);
    munmap(this.#scratch, SCRATCH_BYTES);
  }

  get pages(): number {
    return this.#keys.tags.length;
  }

  /** How many pages hold ciphertext. */
  get writtenPages(): number {
    return this.#keys.writtenPages;
  }

  get sharedPages(): number {
    return this.#keys.sharedPages;
  }

  /** How many of a range's pages are shared. */
  sharing(offset: number, length: number): 'none' | 'some' | 'all' {
    if (this.sharedPages === 0) return 'none';
    const { tags } = this.#keys;
    const first = Math.floor(offset / PAGE_BYTES);
    const last = Math.floor((offset + length - 1) / PAGE_BYTES);
    let shared = 0;
    for (let page = first; page <= last; page++) if (tags[page] === SHARED) shared++;
    if (shared === 0) return 'none';
    return shared === last - first + 1 ? 'all' : 'some';
  }

  /** Decrypts `length` bytes from `offset` on to the native address `into`. The range must lie inside. */
  read(keys: SlotKeys, offset: number, length: number, into: number): void {
    const { tags } = this.#keys;
    // Runs of pages that are decrypted alike, so that the engine sees as few calls as it can.
    const end = offset + length;
    for (let at = offset; at < end; ) {
      let page = Math.floor(at / PAGE_BYTES);
      const tag = tags[page] ?? NEVER_WRITTEN;
      const target = into + (at - offset);
      let stop = (page + 1) * PAGE_BYTES;
      if (tag === MIXED) {
        this.#readMixed(keys, page, at, Math.min(stop, end), target);
      } else {
        const cipher = cipherOf(keys, tag);
        for (; stop < end; stop += PAGE_BYTES) {
          const next = tags[++page] ?? NEVER_WRITTEN;
          if (next !== tag && (next === MIXED || cipherOf(keys, next) !== cipher)) break;
        }
        const bytes = Math.min(stop, end) - at;
        if (cipher === undefined) explicitBzero(target, bytes);
        else this.#decrypt(cipher, at, bytes, target);
      }
      at = stop;
    }
  }

  /** Encrypts `length` bytes at the native address `from` into DRAM. The range must lie inside. */
  write(keys: SlotKeys, offset: number, length: number, from: number): void {
    const end = offset + length;
    const first = Math.floor(offset / PAGE_BYTES);
    const last = Math.floor((end - 1) / PAGE_BYTES);
    const beginsInside = offset % PAGE_BYTES !== 0 || (last === first && end % PAGE_BYTES !== 0);
    const endsInside = end % PAGE_BYTES !== 0 && last !== first;
    if (beginsInside) this.#openForPart(keys, first);
    if (endsInside) this.#openForPart(keys, last);
    const { cipher, tag } = keys;
    cipher.encrypt(from, this.#address + first * PAGE_BYTES, first, offset % PAGE_BYTES, length);
    const whole = beginsInside ? first + 1 : first;
    const afterWhole = end % PAGE_BYTES === 0 ? last + 1 : last;
    if (whole < afterWhole) this.#keys.set(whole, afterWhole, tag);
    if (beginsInside) this.#noteBlocks(tag, offset, Math.min(end, (first + 1) * PAGE_BYTES));
    if (endsInside) this.#noteBlocks(tag, last * PAGE_BYTES, end);
  }

  /** Copies `length` bytes from `offset` on as they lie to the native address `into`. */
  readClear(offset: number, length: number, into: number): void {
    copyNative(into, this.#address + offset, length);
  }

  /**
   * Copies `length` bytes at the native address `from` into DRAM as they are.
   * @param keys the VM's own: a private page that was never written is made zeros under them first, so that
   *   what lies there then is noise to them, as it is in every other private page
   */
  writeClear(keys: SlotKeys | undefined, offset: number, length: number, from: number): void {
    if (keys !== undefined) {
      const last = Math.floor((offset + length - 1) / PAGE_BYTES);
      for (let page = Math.floor(offset / PAGE_BYTES); page <= last; page++) {
        this.#zeroFirst(keys, page);
      }
    }
    copyNative(this.#address + offset, from, length);
  }

  /**
   * Makes whole pages shared, from `first` up to `after`.
   * @param keys those that their content is read under; undefined where it is discarded, for zeros
   */
  share(keys: SlotKeys | undefined, first: number, after: number): void {
    for (let page = first; page < after; page++) {
      const at = this.#address + page * PAGE_BYTES;
      if (keys === undefined) {
        explicitBzero(at, PAGE_BYTES);
      } else if (this.#keys.tags[page] !== SHARED) {
        this.read(keys, page * PAGE_BYTES, PAGE_BYTES, this.#scratch);
        copyNative(at, this.#scratch, PAGE_BYTES);
      }
      this.#keys.share(page);
    }
  }

  /**
   * Makes whole pages private, from `first` up to `after`.
   * @param keys those that their content is put under; undefined where it is discarded, for zeros
   */
  unshare(keys: SlotKeys | undefined, first: number, after: number): void {
    for (let page = first; page < after; page++) {
      const at = this.#address + page * PAGE_BYTES;
      if (keys === undefined) {
        explicitBzero(at, PAGE_BYTES);
        this.#keys.makePrivate(page, NEVER_WRITTEN);
      } else if (this.#keys.tags[page] === SHARED) {
        keys.cipher.encrypt(at, at, page, 0, PAGE_BYTES);
        this.#keys.makePrivate(page, keys.tag);
      }
    }
  }

  /** Calls `each` with runs of a range's pages that are all shared, or all private. */
  runs(
    offset: number,
    length: number,
    each: (shared: boolean, offset: number, length: number) => void,
  ): void {
    const { tags } = this.#keys;
    const end = offset + length;
    for (let at = offset; at < end; ) {
      let page = Math.floor(at / PAGE_BYTES);
      const shared = tags[page] === SHARED;
      let stop = (page + 1) * PAGE_BYTES;
      while (stop < end && (tags[++page] === SHARED) === shared) stop += PAGE_BYTES;
      stop = Math.min(stop, end);
      each(shared, at, stop - at);
      at = stop;
    }
  }

  /**
   * Flips the bits of `mask` in the byte of ciphertext at `offset`, as an error of the memory cells
   * does: the 16 bytes around it decrypt to noise. A page that was never written becomes zeros that are
   * encrypted, for there has to be something to spoil.
   */
  flip(keys: SlotKeys, offset: number, mask: number): void {
    this.#zeroFirst(keys, Math.floor(offset / PAGE_BYTES));
    const byte = new Uint8Array(1);
    copyFromAddress(byte, this.#address + offset);
    byte[0] = (byte[0] ?? 0) ^ mask;
    copyToAddress(this.#address + offset, byte);
  }

  /**
   * Looks from page `from` on for what is under the older of a slot's two keys, and encrypts the first of it
   * anew under the newer: at most some pages that lie together, so that it is over within microseconds.
   * @returns the page to go on from, which is {@link pages} at the end, and how many were moved.
   */
  rekey(keys: SlotKeys, from: number): { readonly next: number; readonly moved: number } {
    const { tags } = this.#keys;
    if (this.#closed) return { next: tags.length, moved: 0 };
    const old = keys.outgoing?.tag ?? NEVER_WRITTEN;
    const limit = Math.min(from + PAGES_A_LOOK, tags.length);
    let page = from;
    while (page < limit && tags[page] !== old && tags[page] !== MIXED) page++;
    if (page === limit || keys.outgoing === undefined) return { next: limit, moved: 0 };
    if (tags[page] === MIXED) {
      return { next: page + 1, moved: this.#moveBlocks(keys, page) ? 1 : 0 };
    }
    const most = Math.min(page + PAGES_A_MOVE, tags.length);
    let after = page + 1;
    while (after < most && tags[after] === old) after++;
    this.#movePages(keys, page, after);
    return { next: after, moved: after - page };
  }

  #readMixed(keys: SlotKeys, page: number, offset: number, end: number, into: number): void {
    const blocks = this.#keys.blocks(page);
    const start = page * PAGE_BYTES;
    for (let at = offset; at < end; ) {
      let block = Math.floor((at - start) / BLOCK_BYTES);
      const cipher = cipherOf(keys, blocks[block] ?? NEVER_WRITTEN);
      let stop = start + (block + 1) * BLOCK_BYTES;
      for (; stop < end; stop += BLOCK_BYTES) {
        if (cipherOf(keys, blocks[++block] ?? NEVER_WRITTEN) !== cipher) break;
      }
      const bytes = Math.min(stop, end) - at;
      if (cipher !== undefined) this.#decrypt(cipher, at, bytes, into + (at - offset));
      at = stop;
    }
  }

  #decrypt(cipher: XtsCipher, offset: number, length: number, into: number): void {
    const page = Math.floor(offset / PAGE_BYTES);
    cipher.decrypt(this.#address + page * PAGE_BYTES, into, page, offset % PAGE_BYTES, length);
  }

  /**
   * Makes a page ready to be written in part under the newer key. The rest of a page that was never written
   * are zeros, under that key. What is under the slot's older key moves: a block of which some bytes
   * change is decrypted and encrypted, and that is under one key. What is under another slot's key
   * stays: nobody may decrypt it under this slot.
   */
  #openForPart(keys: SlotKeys, page: number): void {
    const tag = this.#keys.tags[page];
    if (tag === keys.tag) return;
    if (tag === NEVER_WRITTEN) this.#zeroFirst(keys, page);
    else if (tag === MIXED) this.#moveBlocks(keys, page);
    else if (tag === keys.outgoing?.tag) this.#movePages(keys, page, page + 1);
  }

  /** Bytes of one page, which is open for them, were written: from `begin` up to `end`. */
  #noteBlocks(tag: KeyTag, begin: number, end: number): void {
    const page = Math.floor(begin / PAGE_BYTES);
    const start = page * PAGE_BYTES;
    const first = Math.floor((begin - start) / BLOCK_BYTES);
    this.#keys.setBlocks(page, first, Math.ceil((end - start) / BLOCK_BYTES), tag);
  }

  /** At most {@link PAGES_A_MOVE} pages, all under the older key. */
  #movePages(keys: SlotKeys, first: number, after: number): void {
    this.#move(keys, first, 0, (after - first) * PAGE_BYTES);
    this.#keys.set(first, after, keys.tag);
  }

  /** The blocks of a mixed page that are under the older key. @returns whether there were any. */
  #moveBlocks(keys: SlotKeys, page: number): boolean {
    const old = keys.outgoing?.tag;
    if (old === undefined) return false;
    // A copy: noting what has moved may join the page, and end its record.
    const blocks = Uint32Array.from(this.#keys.blocks(page));
    let moved = false;
    for (let block = blocks.indexOf(old); block >= 0; block = blocks.indexOf(old, block)) {
      let after = block + 1;
      while (blocks[after] === old) after++;
      this.#move(keys, page, block * BLOCK_BYTES, (after - block) * BLOCK_BYTES);
      this.#keys.setBlocks(page, block, after, keys.tag);
      moved = true;
      block = after;
    }
    return moved;
  }

  /** Whole blocks, by way of the scratch: no plaintext is ever in DRAM. */
  #move({ outgoing, cipher }: SlotKeys, page: number, offset: number, length: number): void {
    const at = this.#address + page * PAGE_BYTES;
    outgoing?.cipher.decrypt(at, this.#scratch, page, offset, length);
    cipher.encrypt(this.#scratch, at, page, offset, length);
  }

  #zeroFirst({ cipher, tag }: SlotKeys, page: number): void {
    if (this.#keys.tags[page] !== NEVER_WRITTEN) return;
    // Unwritten pages of the memfd are zeros themselves: encrypt them where they lie.
    const at = this.#address + page * PAGE_BYTES;
    cipher.encrypt(at, at, page, 0, PAGE_BYTES);
    this.#keys.set(page, page + 1, tag);
  }
}

/** What decrypts something under a key, for an access through a slot; undefined for what was never written. */
function cipherOf({ cipher, outgoing }: SlotKeys, tag: number): XtsCipher | undefined {
  if (tag === NEVER_WRITTEN) return undefined;
  return outgoing !== undefined && outgoing.tag === tag ? outgoing.cipher : cipher;
}
