/**
 * AES-XTS built on the AES of @noble/ciphers, which has no XTS of its own: the oracle that the other
 * engines are held against. Slow, short, and close to the text of IEEE Std 1619-2007 section 5.
 * The key schedule lives in the JavaScript heap until {@link NobleXts.close} wipes it.
 * @module
 */
import { unsafe } from '@noble/ciphers/aes.js';
import { viewOfAddress } from '../ffi/libc.ts';
import { PortableXts } from './portable-xts.ts';
import { multiplyByAlpha, writeUnitNumber } from './tweak.ts';
import { BLOCK_BYTES, type NativeKey, PAGE_BYTES } from './xts-cipher.ts';

const { expandKeyLE, expandKeyDecLE, encryptBlock, decryptBlock } = unsafe;

export class NobleXts extends PortableXts {
  override readonly engine = 'noble';
  readonly #key1Encrypt: Uint32Array;
  readonly #key1Decrypt: Uint32Array;
  readonly #key2: Uint32Array;
  readonly #tweak = new Uint32Array(4);
  readonly #block = new Uint8Array(BLOCK_BYTES);

  /** @throws RangeError, WeakKeyError */
  constructor(key: NativeKey, unitBytes: number = PAGE_BYTES) {
    super(key, unitBytes);
    const half = key.bytes / 2;
    const bytes = viewOfAddress(key.address, key.bytes).slice();
    this.#key1Encrypt = expandKeyLE(bytes.subarray(0, half));
    this.#key1Decrypt = expandKeyDecLE(bytes.subarray(0, half));
    this.#key2 = expandKeyLE(bytes.subarray(half));
    bytes.fill(0);
  }

  /** Section 5.3.1 and 5.4.1 for each block. */
  protected override crypt(
    encrypt: boolean,
    from: Uint8Array,
    into: Uint8Array,
    unit: number,
    first: number,
  ): void {
    const tweak = this.#tweak;
    const tweakBytes = new Uint8Array(tweak.buffer);
    const block = this.#block;
    writeUnitNumber(tweak, 0, unit);
    encryptBlock(this.#key2, tweakBytes);
    multiplyByAlpha(tweak, 0, first);
    for (let at = 0; at < from.length; at += BLOCK_BYTES) {
      for (let i = 0; i < BLOCK_BYTES; i += 1) block[i] = from[at + i]! ^ tweakBytes[i]!;
      if (encrypt) encryptBlock(this.#key1Encrypt, block);
      else decryptBlock(this.#key1Decrypt, block);
      for (let i = 0; i < BLOCK_BYTES; i += 1) into[at + i] = block[i]! ^ tweakBytes[i]!;
      multiplyByAlpha(tweak, 0, 1);
    }
    block.fill(0);
  }

  protected override release(): void {
    super.release();
    this.#key1Encrypt.fill(0);
    this.#key1Decrypt.fill(0);
    this.#key2.fill(0);
    this.#tweak.fill(0);
  }
}
