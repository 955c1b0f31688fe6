import type { XtsCipher } from '../../crypto/xts-cipher.ts';
import {
  copyFromAddress,
  copyToAddress,
  explicitBzero,
  MAP_SHARED,
  mmap,
  PROT_READ,
  PROT_WRITE,
} from '../../ffi/libc.ts';

const PAGE_BYTES = 4096;

/**
 * DRAM: what lies outside the package. It holds ciphertext and nothing else; plaintext is only ever
 * the source of an encryption into it or the destination of a decryption out of it.
 *
 * A page that was never written holds zeros, stands for zeros, and is not decrypted: a bit for
 * each page says which. All calls are on the controller's one thread, so no unit is ever seen half
 * encrypted by another call; who maps the memfd from outside sees ciphertext, old or new.
 */
export class Dram {
  readonly bytes: number;
  readonly #address: number;
  readonly #written: Uint8Array;

  /**
   * @param fd a memfd of at least `bytes`, mapped here and never unmapped.
   * @param bytes a multiple of the page size.
   */
  constructor(fd: number, bytes: number) {
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % PAGE_BYTES !== 0) {
      throw new RangeError(`expected DRAM in whole pages of ${PAGE_BYTES} bytes, got ${bytes}`);
    }
    this.bytes = bytes;
    this.#address = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    this.#written = new Uint8Array(bytes / PAGE_BYTES);
  }

  /** How many pages hold ciphertext. */
  get writtenPages(): number {
    return this.#written.reduce((sum, bit) => sum + bit, 0);
  }

  /** Decrypts `length` bytes from `offset` on to the native address `into`. The range must lie inside. */
  read(cipher: XtsCipher, offset: number, length: number, into: number): void {
    // Runs of written and of unwritten pages, so that the engine sees as few calls as it can.
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const written = this.#written[Math.floor(at / PAGE_BYTES)] === 1;
      let stop = at - (at % PAGE_BYTES) + PAGE_BYTES;
      while (stop < end && (this.#written[stop / PAGE_BYTES] === 1) === written) stop += PAGE_BYTES;
      const bytes = Math.min(stop, end) - at;
      const target = into + (at - offset);
      if (written) this.#decrypt(cipher, at, bytes, target);
      else explicitBzero(target, bytes);
      at += bytes;
    }
  }

  /** Encrypts `length` bytes at the native address `from` into DRAM. The range must lie inside. */
  write(cipher: XtsCipher, offset: number, length: number, from: number): void {
    const end = offset + length;
    const first = Math.floor(offset / PAGE_BYTES);
    const last = Math.floor((end - 1) / PAGE_BYTES);
    // A page that is written in part for the first time gets its other bytes, zeros, encrypted.
    if (offset % PAGE_BYTES !== 0 || (last === first && end % PAGE_BYTES !== 0)) {
      this.#zeroFirst(cipher, first);
    }
    if (end % PAGE_BYTES !== 0 && last !== first) this.#zeroFirst(cipher, last);
    cipher.encrypt(from, this.#address + first * PAGE_BYTES, first, offset % PAGE_BYTES, length);
    this.#written.fill(1, first, last + 1);
  }

  /**
   * Flips the bits of `mask` in the byte of ciphertext at `offset`, as an error of the memory cells
   * does: the 16 bytes around it decrypt to noise. A page that was never written becomes zeros that are
   * encrypted, for there has to be something to spoil.
   */
  flip(cipher: XtsCipher, offset: number, mask: number): void {
    this.#zeroFirst(cipher, Math.floor(offset / PAGE_BYTES));
    const byte = new Uint8Array(1);
    copyFromAddress(byte, this.#address + offset);
    byte[0] = (byte[0] ?? 0) ^ mask;
    copyToAddress(this.#address + offset, byte);
  }

  #decrypt(cipher: XtsCipher, offset: number, length: number, into: number): void {
    const page = Math.floor(offset / PAGE_BYTES);
    cipher.decrypt(this.#address + page * PAGE_BYTES, into, page, offset % PAGE_BYTES, length);
  }

  #zeroFirst(cipher: XtsCipher, page: number): void {
    if (this.#written[page] === 1) return;
    // Unwritten pages of the memfd are zeros themselves: encrypt them where they lie.
    const at = this.#address + page * PAGE_BYTES;
    cipher.encrypt(at, at, page, 0, PAGE_BYTES);
    this.#written[page] = 1;
  }
}
