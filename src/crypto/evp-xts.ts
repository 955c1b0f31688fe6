/**
 * AES-XTS by libcrypto's EVP through FFI: the default engine.
 *
 * What a page costs beside its 256 blocks is the calls around them: EVP_CipherInit_ex for the IV and
 * EVP_CipherUpdate. Both go. EVP_CIPHER_CTX_iv_noconst gives the address of the IV that the next call
 * uses, and XTS takes the IV anew with every call, so storing the page number there equals
 * EVP_CipherInit_ex(context, 0, 0, 0, iv, -1). And a short native loop makes the calls of all pages
 * behind one FFI call (page-loop.ts). That this gives what EVP_CipherInit_ex gives is proved at the first
 * use, on this very libcrypto; where it does not, the engine goes the slower way and
 * {@link EvpXts.tweakPath} says so.
 *
 * EVP begins a data unit at block 0. To begin at block j it is given another IV, I, chosen so that the
 * tweak it computes is the one of block j:
 *
 *     E(Key2, I) = E(Key2, unit) · α^j      ⇔      I = D(Key2, E(Key2, unit) · α^j)
 *
 * Two calls on single blocks (ECB under Key2), whatever j is, and no block before j is touched.
 * @module
 */
import { viewOfAddress } from '../ffi/libc.ts';
import {
  EvpLane,
  lockSchedule,
  openContext,
  provenTweakPath,
  reserve,
  type TweakPath,
} from './evp-lane.ts';
import { type Libcrypto, libcrypto } from './libcrypto.ts';
import { multiplyByAlpha, writeUnitNumber } from './tweak.ts';
import {
  BLOCK_BYTES,
  checkNativeKey,
  type NativeKey,
  PAGE_BYTES,
  WeakKeyError,
  XtsCipher,
} from './xts-cipher.ts';

export type { TweakPath } from './evp-lane.ts';

/**
 * Scratch of this thread, shared by its ciphers: no call keeps anything in it, and close() cleanses it.
 * The tweak never moves (a view lies on it); the blocks grow to the largest data unit in use.
 */
let tweak = 0;
let tweakWords: Uint32Array = new Uint32Array(0);
let blocks = 0;
let blocksBytes = 0;

function reserveScratch(lib: Libcrypto, unitBytes: number): void {
  if (tweak === 0) {
    tweak = reserve(lib, BLOCK_BYTES);
    tweakWords = new Uint32Array(viewOfAddress(tweak, BLOCK_BYTES).buffer);
  }
  if (unitBytes <= blocksBytes) return;
  const larger = reserve(lib, unitBytes);
  if (blocks !== 0) lib.clearFree(blocks, blocksBytes);
  blocks = larger;
  blocksBytes = unitBytes;
}

export interface EvpOptions {
  /** Bytes of a data unit; {@link PAGE_BYTES} unless told. */
  readonly unitBytes?: number;
  /** The fastest proved one unless told; for comparing them. */
  readonly tweakPath?: TweakPath;
}

export class EvpXts extends XtsCipher {
  override readonly engine = 'evp';
  readonly tweakPath: TweakPath;
  /** Whether the key schedules are kept out of swap and core dumps; false where RLIMIT_MEMLOCK is short. */
  readonly locked: boolean;
  readonly #lib: Libcrypto;
  readonly #decrypt: EvpLane;
  readonly #encrypt: EvpLane;
  /** ECB under Key2, for tweaks that begin inside a unit. */
  readonly #tweakForward: number;
  readonly #tweakBack: number;

  /** @throws RangeError, WeakKeyError, XtsError */
  constructor(key: NativeKey, options: EvpOptions = {}) {
    const unitBytes = options.unitBytes ?? PAGE_BYTES;
    checkNativeKey(key);
    super(key.bytes, unitBytes);
    const lib = libcrypto();
    this.#lib = lib;
    const half = key.bytes / 2;
    if (lib.compare(key.address, key.address + half, half) === 0) throw new WeakKeyError();
    reserveScratch(lib, unitBytes);
    const path = options.tweakPath ?? provenTweakPath();
    this.tweakPath = path;

    const undo: (() => void)[] = [];
    try {
      const lane = (encrypt: 0 | 1): EvpLane => {
        const made = new EvpLane(lib, this.keyBits, key.address, encrypt, unitBytes, path);
        undo.push(() => made.free());
        return made;
      };
      const ecb = (encrypt: 0 | 1): number => {
        const made = openContext(lib, `AES-${this.keyBits}-ECB`, key.address + half, encrypt);
        undo.push(() => lib.contextFree(made));
        return made;
      };
      this.#decrypt = lane(0);
      this.#encrypt = lane(1);
      this.#tweakForward = ecb(1);
      this.#tweakBack = ecb(0);
      this.locked = [
        this.#decrypt.context,
        this.#encrypt.context,
        this.#tweakForward,
        this.#tweakBack,
      ].every((context) => lockSchedule(lib, context));
    } catch (error) {
      for (const step of undo) step();
      throw error;
    }
  }

  override toJSON(): Record<string, unknown> {
    return { ...super.toJSON(), tweakPath: this.tweakPath, locked: this.locked };
  }

  protected override decryptUnits(from: number, into: number, unit: number, bytes: number): void {
    this.#decrypt.units(from, into, unit, bytes);
  }

  protected override encryptUnits(from: number, into: number, unit: number, bytes: number): void {
    this.#encrypt.units(from, into, unit, bytes);
  }

  protected override decryptBlocks(
    from: number,
    into: number,
    unit: number,
    first: number,
    bytes: number,
  ): void {
    this.#begin(this.#decrypt, unit, first);
    this.#decrypt.continue(from, into, bytes);
  }

  protected override encryptBlocks(
    from: number,
    into: number,
    unit: number,
    first: number,
    bytes: number,
  ): void {
    this.#begin(this.#encrypt, unit, first);
    this.#encrypt.continue(from, into, bytes);
  }

  protected override scratch(): number {
    return blocks;
  }

  protected override copy(into: number, from: number, bytes: number): void {
    this.#lib.copy(into, from, bytes);
  }

  protected override release(): void {
    this.#decrypt.free();
    this.#encrypt.free();
    this.#lib.contextFree(this.#tweakForward);
    this.#lib.contextFree(this.#tweakBack);
    this.#lib.cleanse(tweak, BLOCK_BYTES);
    this.#lib.cleanse(blocks, blocksBytes);
  }

  /** Puts the IV in place whose tweak is that of block `first` of `unit`. */
  #begin(lane: EvpLane, unit: number, first: number): void {
    const cipher = this.#lib.cipher;
    writeUnitNumber(tweakWords, 0, unit);
    if (cipher(this.#tweakForward, tweak, tweak, BLOCK_BYTES) !== BLOCK_BYTES)
      lane.fail('EVP_Cipher');
    multiplyByAlpha(tweakWords, 0, first);
    if (cipher(this.#tweakBack, lane.iv, tweak, BLOCK_BYTES) !== BLOCK_BYTES)
      lane.fail('EVP_Cipher');
  }
}
