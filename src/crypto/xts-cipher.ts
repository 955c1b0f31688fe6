/**
 * AES-XTS as a memory controller uses it: the data unit is a page, the tweak is the page number.
 *
 * XTS-AES (IEEE Std 1619-2007 section 5, {@link https://doi.org/10.6028/NIST.SP.800-38E | NIST SP
 * 800-38E}) has a key of two halves. Block `j` of data unit `i` is
 *
 *     T = E(Key2, i) · α^j        i as 128 bits, little endian; α = x in GF(2^128)
 *     C = E(Key1, P ⊕ T) ⊕ T      and back P = D(Key1, C ⊕ T) ⊕ T
 *
 * so any 16-byte block can be reached by itself. What lies between blocks cannot: a range that
 * begins or ends inside one is a read of the whole block, or a read, change and write of it.
 *
 * Three engines have this one face: `evp` (libcrypto through FFI, the default), `node`
 * (node:crypto) and `noble` (AES of @noble/ciphers, the oracle of the tests). All of them work on
 * native memory by address, without a copy. None authenticates: a changed ciphertext block decrypts
 * to noise in that block and nowhere else.
 * @module
 */
import { addressOf, type Place } from './place.ts';

export const BLOCK_BYTES = 16;
/** The data unit of guest memory. */
export const PAGE_BYTES = 4096;
/** SP 800-38E: a data unit has at most 2^20 blocks. */
export const UNIT_BYTES_MAX = 2 ** 24;
/** Page numbers of 2^40 and far beyond are exact. */
export const UNIT_NUMBER_MAX = 2 ** 52;
const RANGE_BYTES_MAX = 2 ** 48;

export type XtsEngineName = 'evp' | 'node' | 'noble';

/** Where a key lies: Key1 then Key2, in native memory that stays valid while a cipher is opened. */
export interface NativeKey {
  readonly address: number;
  /** 64 for AES-256-XTS, 32 for AES-128-XTS. */
  readonly bytes: 64 | 32;
}

/**
 * Checks a key before any engine sees it. The halves must differ (FIPS 140 IG C.I: with Key1 = Key2
 * an attacker who chooses ciphertext breaks XTS); comparing them is the caller's, as the bytes are
 * native.
 * @throws RangeError
 */
export function checkNativeKey(key: NativeKey): void {
  if (key.bytes !== 64 && key.bytes !== 32) {
    throw new RangeError(
      `expected an XTS key of 64 bytes (AES-256) or 32 (AES-128), got ${key.bytes}`,
    );
  }
  if (!Number.isSafeInteger(key.address) || key.address <= 0) {
    throw new RangeError('expected the address of the XTS key in native memory, got none');
  }
}

/** The two halves of a key are equal. */
export class WeakKeyError extends Error {
  override readonly name = 'WeakKeyError';
  constructor() {
    super('expected an XTS key whose two halves differ, got equal halves: generate another key');
  }
}

/** The engine refused to work: an internal failure, never a property of the data. */
export class XtsError extends Error {
  override readonly name = 'XtsError';
}

/**
 * A key ready for use, both directions. It belongs to one thread, and its calls do not overlap.
 *
 * The ciphertext side is named by the place of byte 0 of data unit `unit`, the plaintext side by the
 * place of the first byte of the range; `offset` counts from byte 0 of `unit` and may reach past its
 * end, into the units that follow in number and in memory.
 */
export abstract class XtsCipher {
  abstract readonly engine: XtsEngineName;
  readonly keyBits: 128 | 256;
  readonly unitBytes: number;
  #closed = false;

  protected constructor(keyBytes: 64 | 32, unitBytes: number) {
    if (
      !Number.isInteger(unitBytes) ||
      unitBytes < BLOCK_BYTES ||
      unitBytes > UNIT_BYTES_MAX ||
      unitBytes % BLOCK_BYTES !== 0
    ) {
      throw new RangeError(
        `expected unitBytes as a multiple of 16 from 16 to 2^24, got ${unitBytes}`,
      );
    }
    this.keyBits = keyBytes === 64 ? 256 : 128;
    this.unitBytes = unitBytes;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Decrypts bytes `offset` to `offset + length` of the units at `source` into `destination`.
   * Reads whole blocks at `source`; writes exactly `length` bytes. In place
   * (`destination` = `source` + `offset`) is allowed, any other overlap is not.
   * @throws RangeError where an argument is out of range; XtsError where the cipher is closed or failed.
   */
  decrypt(source: Place, destination: Place, unit: number, offset: number, length: number): void {
    this.#check(unit, offset, length);
    if (length === 0) return;
    const from = addressOf(source, blockEnd(offset + length), 'source');
    const into = addressOf(destination, length, 'destination');
    const unitBytes = this.unitBytes;

    const at = offset % unitBytes;
    let number = unit + (offset - at) / unitBytes;
    let cipher = from + offset;
    let plain = into;
    let left = length;

    // The first unit, where the range does not begin with it.
    if (at !== 0) {
      const bytes = Math.min(left, unitBytes - at);
      if (((at | bytes) & 15) === 0) this.decryptBlocks(cipher, plain, number, at >>> 4, bytes);
      else this.#decryptInside(cipher, plain, number, at, bytes);
      number += 1;
      cipher += bytes;
      plain += bytes;
      left -= bytes;
    }
    const tail = left % unitBytes;
    if ((tail & 15) === 0) {
      if (left > 0) this.decryptUnits(cipher, plain, number, left);
    } else {
      const units = left - tail;
      if (units > 0) this.decryptUnits(cipher, plain, number, units);
      this.#decryptInside(cipher + units, plain + units, number + units / unitBytes, 0, tail);
    }
  }

  /**
   * Encrypts `length` bytes at `source` as bytes `offset` to `offset + length` of the units at
   * `destination`. Where the range begins or ends inside a block, that block is read, changed and
   * written. In place (`source` = `destination` + `offset`) is allowed for whole blocks only, since
   * the rest of a half-plain block means nothing; any other overlap is not.
   * @throws RangeError where an argument is out of range; XtsError where the cipher is closed or failed.
   */
  encrypt(source: Place, destination: Place, unit: number, offset: number, length: number): void {
    this.#check(unit, offset, length);
    if (length === 0) return;
    const from = addressOf(source, length, 'source');
    const into = addressOf(destination, blockEnd(offset + length), 'destination');
    if (((offset | length) & 15) !== 0 && from === into + offset) {
      throw new RangeError(
        `expected offset and length in whole 16-byte blocks to encrypt in place, got ${offset} and ${length}`,
      );
    }
    const unitBytes = this.unitBytes;

    const at = offset % unitBytes;
    let number = unit + (offset - at) / unitBytes;
    let plain = from;
    let cipher = into + offset;
    let left = length;

    if (at !== 0) {
      const bytes = Math.min(left, unitBytes - at);
      if (((at | bytes) & 15) === 0) this.encryptBlocks(plain, cipher, number, at >>> 4, bytes);
      else this.#encryptInside(plain, cipher, number, at, bytes);
      number += 1;
      plain += bytes;
      cipher += bytes;
      left -= bytes;
    }
    const tail = left % unitBytes;
    if ((tail & 15) === 0) {
      if (left > 0) this.encryptUnits(plain, cipher, number, left);
    } else {
      const units = left - tail;
      if (units > 0) this.encryptUnits(plain, cipher, number, units);
      this.#encryptInside(plain + units, cipher + units, number + units / unitBytes, 0, tail);
    }
  }

  /** Wipes what the engine holds of the key. The cipher is of no use afterwards. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.release();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** What a log or an inspector may see: never the key. */
  toJSON(): Record<string, unknown> {
    return {
      engine: this.engine,
      keyBits: this.keyBits,
      unitBytes: this.unitBytes,
      closed: this.#closed,
    };
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return `XtsCipher { ${this.engine}, AES-${this.keyBits}, units of ${this.unitBytes} bytes${this.#closed ? ', closed' : ''} }`;
  }

  /**
   * Whole units from `unit` on; the last one may stop at any block. `bytes` is a positive multiple
   * of 16, addresses are native.
   */
  protected abstract decryptUnits(from: number, into: number, unit: number, bytes: number): void;
  protected abstract encryptUnits(from: number, into: number, unit: number, bytes: number): void;
  /** Blocks of one unit from block `first` > 0 on; `from` and `into` are the places of that block. */
  protected abstract decryptBlocks(
    from: number,
    into: number,
    unit: number,
    first: number,
    bytes: number,
  ): void;
  protected abstract encryptBlocks(
    from: number,
    into: number,
    unit: number,
    first: number,
    bytes: number,
  ): void;
  /** Native memory for the blocks of one unit, at least; no call keeps it. */
  protected abstract scratch(): number;
  protected abstract copy(into: number, from: number, bytes: number): void;
  protected abstract release(): void;

  /** A range of one unit that begins or ends inside a block: the blocks around it, then a copy. */
  #decryptInside(cipher: number, plain: number, unit: number, at: number, bytes: number): void {
    const lead = at & 15;
    const around = (lead + bytes + 15) & ~15;
    const blocks = this.scratch();
    if (at < BLOCK_BYTES) this.decryptUnits(cipher - lead, blocks, unit, around);
    else this.decryptBlocks(cipher - lead, blocks, unit, at >>> 4, around);
    this.copy(plain, blocks + lead, bytes);
  }

  #encryptInside(plain: number, cipher: number, unit: number, at: number, bytes: number): void {
    const lead = at & 15;
    const around = (lead + bytes + 15) & ~15;
    const blocks = this.scratch();
    const first = at >>> 4;
    if (first === 0) {
      this.decryptUnits(cipher - lead, blocks, unit, around);
      this.copy(blocks + lead, plain, bytes);
      this.encryptUnits(blocks, cipher - lead, unit, around);
    } else {
      this.decryptBlocks(cipher - lead, blocks, unit, first, around);
      this.copy(blocks + lead, plain, bytes);
      this.encryptBlocks(blocks, cipher - lead, unit, first, around);
    }
  }

  #check(unit: number, offset: number, length: number): void {
    if (this.#closed) {
      throw new XtsError(
        'expected an open cipher, got one whose key was wiped: take the slot anew',
      );
    }
    // Together these keep every sum below 2^53.
    if (!Number.isInteger(unit) || unit < 0 || unit > UNIT_NUMBER_MAX) {
      throw new RangeError(`expected a data-unit number from 0 to 2^52, got ${unit}`);
    }
    if (!Number.isInteger(offset) || offset < 0 || offset > RANGE_BYTES_MAX) {
      throw new RangeError(`expected an offset from 0 to 2^48 bytes, got ${offset}`);
    }
    if (!Number.isInteger(length) || length < 0 || length > RANGE_BYTES_MAX) {
      throw new RangeError(`expected a length from 0 to 2^48 bytes, got ${length}`);
    }
  }
}

function blockEnd(offset: number): number {
  return offset + ((BLOCK_BYTES - (offset % BLOCK_BYTES)) % BLOCK_BYTES);
}
