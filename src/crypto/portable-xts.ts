/**
 * What the engines without libcrypto share: they see the native memory through views, and the key has
 * to enter the JavaScript heap. They are for tests and for comparing; where keys matter use `evp`.
 * @module
 */
import koffi from 'koffi';
import { viewOfAddress } from '../ffi/libc.ts';
import { checkNativeKey, type NativeKey, WeakKeyError, XtsCipher } from './xts-cipher.ts';

export abstract class PortableXts extends XtsCipher {
  readonly #scratch: Uint8Array<ArrayBuffer>;
  readonly #scratchAddress: number;

  /** @throws RangeError, WeakKeyError */
  protected constructor(key: NativeKey, unitBytes: number) {
    checkNativeKey(key);
    super(key.bytes, unitBytes);
    const half = key.bytes / 2;
    const bytes = viewOfAddress(key.address, key.bytes);
    let difference = 0;
    for (let i = 0; i < half; i += 1) difference |= bytes[i]! ^ bytes[half + i]!;
    if (difference === 0) throw new WeakKeyError();
    this.#scratch = new Uint8Array(new ArrayBuffer(unitBytes));
    this.#scratchAddress = Number(koffi.address(this.#scratch.buffer));
  }

  /**
   * Blocks of one unit from block `first` on, out of `from` into `into`; the two are the same memory
   * or apart.
   */
  protected abstract crypt(
    encrypt: boolean,
    from: Uint8Array,
    into: Uint8Array,
    unit: number,
    first: number,
  ): void;

  protected override decryptUnits(from: number, into: number, unit: number, bytes: number): void {
    this.#units(false, from, into, unit, bytes);
  }

  protected override encryptUnits(from: number, into: number, unit: number, bytes: number): void {
    this.#units(true, from, into, unit, bytes);
  }

  protected override decryptBlocks(
    from: number,
    into: number,
    unit: number,
    first: number,
    bytes: number,
  ): void {
    this.crypt(false, viewOfAddress(from, bytes), viewOfAddress(into, bytes), unit, first);
  }

  protected override encryptBlocks(
    from: number,
    into: number,
    unit: number,
    first: number,
    bytes: number,
  ): void {
    this.crypt(true, viewOfAddress(from, bytes), viewOfAddress(into, bytes), unit, first);
  }

  protected override scratch(): number {
    return this.#scratchAddress;
  }

  protected override copy(into: number, from: number, bytes: number): void {
    viewOfAddress(into, bytes).set(viewOfAddress(from, bytes));
  }

  protected override release(): void {
    this.#scratch.fill(0);
  }

  #units(encrypt: boolean, from: number, into: number, unit: number, bytes: number): void {
    const source = viewOfAddress(from, bytes);
    const destination = viewOfAddress(into, bytes);
    for (let at = 0, number = unit; at < bytes; at += this.unitBytes, number += 1) {
      const end = Math.min(at + this.unitBytes, bytes);
      this.crypt(encrypt, source.subarray(at, end), destination.subarray(at, end), number, 0);
    }
  }
}
