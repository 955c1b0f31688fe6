/**
 * AES-XTS by node:crypto, for a Node whose libcrypto cannot be called. A new cipher object for every
 * data unit, since node:crypto has no way to set another IV. The key lives in the JavaScript heap until
 * {@link NodeXts.close} wipes it, and in what node:crypto copies of it until that is collected.
 * @module
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { viewOfAddress } from '../ffi/libc.ts';
import { PortableXts } from './portable-xts.ts';
import { writeUnitNumber } from './tweak.ts';
import { BLOCK_BYTES, type NativeKey, PAGE_BYTES, XtsError } from './xts-cipher.ts';

export class NodeXts extends PortableXts {
  override readonly engine = 'node';
  readonly #key: Uint8Array;
  readonly #iv = new Uint32Array(4);
  readonly #algorithm: 'aes-128-xts' | 'aes-256-xts';

  /** @throws RangeError, WeakKeyError */
  constructor(key: NativeKey, unitBytes: number = PAGE_BYTES) {
    super(key, unitBytes);
    this.#key = viewOfAddress(key.address, key.bytes).slice();
    this.#algorithm = key.bytes === 64 ? 'aes-256-xts' : 'aes-128-xts';
  }

  protected override crypt(
    encrypt: boolean,
    from: Uint8Array,
    into: Uint8Array,
    unit: number,
    first: number,
  ): void {
    writeUnitNumber(this.#iv, 0, unit);
    const iv = new Uint8Array(this.#iv.buffer);
    const cipher = encrypt
      ? createCipheriv(this.#algorithm, this.#key, iv)
      : createDecipheriv(this.#algorithm, this.#key, iv);
    // A unit begins at block 0 here: the blocks before `first` are worked through as zeros.
    const before = first * BLOCK_BYTES;
    let input = from;
    if (before > 0) {
      input = new Uint8Array(before + from.length);
      input.set(from, before);
    }
    const output = cipher.update(input);
    if (output.length !== input.length) {
      throw new XtsError(
        `expected ${input.length} bytes of ${this.#algorithm}, got ${output.length}`,
      );
    }
    into.set(output.subarray(before));
    output.fill(0);
  }

  protected override release(): void {
    super.release();
    this.#key.fill(0);
  }
}
