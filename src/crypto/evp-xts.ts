/**
 * AES-XTS by libcrypto's EVP through FFI: the default engine.
 *
 * What a page costs is the calls around its 256 blocks, so there is one: EVP_Cipher on a context
 * whose IV was written in place. EVP_CIPHER_CTX_iv_noconst gives the address of the IV that the next
 * call uses, and XTS takes the IV anew with every call, so storing the page number there equals
 * EVP_CipherInit_ex(context, 0, 0, 0, iv, -1) at a fraction of its cost. That it does is proved at
 * the first use, on this very libcrypto; where the proof fails or the function is missing, the engine
 * calls EVP_CipherInit_ex for every page and says so in {@link EvpXts.tweakPath}.
 *
 * EVP begins a data unit at block 0. To begin at block j it is given another IV, I, chosen so that the
 * tweak it computes is the one of block j:
 *
 *     E(Key2, I) = E(Key2, unit) · α^j      ⇔      I = D(Key2, E(Key2, unit) · α^j)
 *
 * Two calls on single blocks (ECB under Key2), whatever j is, and no block before j is touched.
 * @module
 */
import { type Libcrypto, libcrypto } from './libcrypto.ts';
import { nativeView } from './place.ts';
import { multiplyByAlpha, writeUnitNumber } from './tweak.ts';
import {
  checkNativeKey,
  type NativeKey,
  PAGE_BYTES,
  WeakKeyError,
  XtsCipher,
  XtsError,
} from './xts-cipher.ts';

/** How the tweak of a data unit reaches the context; see the module's header. */
export type TweakPath = 'live-iv' | 'init';

/**
 * Scratch of this thread, shared by its ciphers: no call keeps anything in it, and close() cleanses it.
 * The head never moves (views lie on it); the blocks grow to the largest data unit in use.
 */
const HEAD_BYTES = 32;
const HEAD_TWEAK = 0;
const HEAD_IV = 16;
let head = 0;
let headWords: Uint32Array = new Uint32Array(0);
let blocks = 0;
let blocksBytes = 0;

function reserveScratch(lib: Libcrypto, unitBytes: number): void {
  const reserve = (bytes: number): number => {
    const address = lib.zalloc(bytes);
    if (address === 0) throw new XtsError(`expected ${bytes} bytes of scratch, got no memory`);
    return address;
  };
  if (head === 0) {
    head = reserve(HEAD_BYTES);
    headWords = new Uint32Array(nativeView(head, HEAD_BYTES).buffer);
  }
  if (unitBytes <= blocksBytes) return;
  const larger = reserve(unitBytes);
  if (blocks !== 0) lib.clearFree(blocks, blocksBytes);
  blocks = larger;
  blocksBytes = unitBytes;
}

/** A context of one direction, with the IV that its next call will use. */
interface Lane {
  readonly context: number;
  /** 0 where the IV is not live. */
  readonly iv: number;
  readonly ivWords: Uint32Array;
}

export interface EvpOptions {
  /** Bytes of a data unit; {@link PAGE_BYTES} unless told. */
  readonly unitBytes?: number;
  /** `init` keeps the engine from writing the IV in place; for comparing the two. */
  readonly tweakPath?: TweakPath;
}

export class EvpXts extends XtsCipher {
  override readonly engine = 'evp';
  readonly tweakPath: TweakPath;
  readonly #lib: Libcrypto;
  readonly #decrypt: Lane;
  readonly #encrypt: Lane;
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
    this.tweakPath = options.tweakPath ?? provenTweakPath(lib);

    const made: number[] = [];
    try {
      const open = (name: string, at: number, encrypt: 0 | 1): number => {
        const context = openContext(lib, name, at, encrypt);
        made.push(context);
        return context;
      };
      const xts = `AES-${this.keyBits}-XTS`;
      const ecb = `AES-${this.keyBits}-ECB`;
      this.#decrypt = lane(lib, open(xts, key.address, 0), this.tweakPath);
      this.#encrypt = lane(lib, open(xts, key.address, 1), this.tweakPath);
      this.#tweakForward = open(ecb, key.address + half, 1);
      this.#tweakBack = open(ecb, key.address + half, 0);
    } catch (error) {
      for (const context of made) lib.contextFree(context);
      throw error;
    }
  }

  protected override decryptUnits(from: number, into: number, unit: number, bytes: number): void {
    this.#units(this.#decrypt, from, into, unit, bytes);
  }

  protected override encryptUnits(from: number, into: number, unit: number, bytes: number): void {
    this.#units(this.#encrypt, from, into, unit, bytes);
  }

  protected override decryptBlocks(
    from: number,
    into: number,
    unit: number,
    first: number,
    bytes: number,
  ): void {
    this.#blocks(this.#decrypt, from, into, unit, first, bytes);
  }

  protected override encryptBlocks(
    from: number,
    into: number,
    unit: number,
    first: number,
    bytes: number,
  ): void {
    this.#blocks(this.#encrypt, from, into, unit, first, bytes);
  }

  protected override scratch(): number {
    return blocks;
  }

  protected override copy(into: number, from: number, bytes: number): void {
    this.#lib.copy(into, from, bytes);
  }

  protected override release(): void {
    this.#lib.contextFree(this.#decrypt.context);
    this.#lib.contextFree(this.#encrypt.context);
    this.#lib.contextFree(this.#tweakForward);
    this.#lib.contextFree(this.#tweakBack);
    this.#lib.cleanse(head, HEAD_BYTES);
    this.#lib.cleanse(blocks, blocksBytes);
  }

  #units(lane: Lane, from: number, into: number, unit: number, bytes: number): void {
    const { context, iv, ivWords } = lane;
    const cipher = this.#lib.cipher;
    const unitBytes = this.unitBytes;
    let number = unit;
    ivWords[2] = 0;
    ivWords[3] = 0;
    for (let at = 0; at < bytes; at += unitBytes) {
      const size = Math.min(unitBytes, bytes - at);
      ivWords[0] = number;
      ivWords[1] = number / 0x1_0000_0000;
      if (iv === 0) this.#init(context);
      if (cipher(context, into + at, from + at, size) !== size) this.#fail('EVP_Cipher');
      number += 1;
    }
  }

  #blocks(
    lane: Lane,
    from: number,
    into: number,
    unit: number,
    first: number,
    bytes: number,
  ): void {
    const cipher = this.#lib.cipher;
    const tweak = head + HEAD_TWEAK;
    const iv = lane.iv === 0 ? head + HEAD_IV : lane.iv;
    writeUnitNumber(headWords, HEAD_TWEAK / 4, unit);
    if (cipher(this.#tweakForward, tweak, tweak, 16) !== 16) this.#fail('EVP_Cipher');
    multiplyByAlpha(headWords, HEAD_TWEAK / 4, first);
    if (cipher(this.#tweakBack, iv, tweak, 16) !== 16) this.#fail('EVP_Cipher');
    if (lane.iv === 0) this.#init(lane.context);
    if (cipher(lane.context, into, from, bytes) !== bytes) this.#fail('EVP_Cipher');
  }

  #init(context: number): void {
    if (this.#lib.cipherInit(context, 0, 0, 0, head + HEAD_IV, -1) !== 1) {
      this.#fail('EVP_CipherInit_ex');
    }
  }

  #fail(what: string): never {
    throw new XtsError(`expected ${what} to succeed, got ${this.#lib.errorText()}`);
  }
}

function openContext(lib: Libcrypto, name: string, key: number, encrypt: 0 | 1): number {
  const cipher = lib.cipherFetch(0, name, 0);
  if (cipher === 0) {
    throw new XtsError(`expected libcrypto ${lib.version} to have ${name}, got ${lib.errorText()}`);
  }
  const context = lib.contextNew();
  // The IV is set to some value here since XTS refuses to work before it has one.
  const done =
    context !== 0 &&
    lib.cipherInit(context, cipher, 0, key, head + HEAD_IV, encrypt) === 1 &&
    lib.setPadding(context, 0) === 1;
  lib.cipherFree(cipher);
  if (!done) {
    if (context !== 0) lib.contextFree(context);
    throw new XtsError(`expected ${name} to take the key, got ${lib.errorText()}`);
  }
  return context;
}

function lane(lib: Libcrypto, context: number, path: TweakPath): Lane {
  const iv = path === 'live-iv' ? (lib.liveIv?.(context) ?? 0) : 0;
  return {
    context,
    iv,
    ivWords:
      iv === 0
        ? headWords.subarray(HEAD_IV / 4, HEAD_IV / 4 + 4)
        : new Uint32Array(nativeView(iv, 16).buffer),
  };
}

let proven: TweakPath | undefined;

/**
 * Whether a store to the live IV does what EVP_CipherInit_ex does, on this libcrypto: the same blocks
 * under several unit numbers, in both directions, by both ways, with a key that is no secret.
 */
function provenTweakPath(lib: Libcrypto): TweakPath {
  if (proven !== undefined) return proven;
  proven = 'init';
  if (lib.liveIv === undefined) return proven;
  const keyBytes = 64;
  const dataBytes = 48;
  const bytes = keyBytes + 3 * dataBytes;
  const memory = lib.zalloc(bytes);
  if (memory === 0)
    throw new XtsError(`expected ${bytes} bytes to prove the engine, got no memory`);
  const view = nativeView(memory, bytes);
  for (let i = 0; i < keyBytes + dataBytes; i += 1) view[i] = i;
  const plain = memory + keyBytes;
  const byStore = plain + dataBytes;
  const byInit = byStore + dataBytes;
  let same = true;
  for (const direction of [0, 1] as const) {
    const stored = openContext(lib, 'AES-256-XTS', memory, direction);
    const inited = openContext(lib, 'AES-256-XTS', memory, direction);
    const target = lib.liveIv(stored);
    if (target === 0) same = false;
    else {
      const words = new Uint32Array(nativeView(target, 16).buffer);
      const ivWords = headWords.subarray(HEAD_IV / 4, HEAD_IV / 4 + 4);
      for (const unit of [1, 0, 0x9a_bcde_f012, 2]) {
        writeUnitNumber(words, 0, unit);
        writeUnitNumber(ivWords, 0, unit);
        same &&=
          lib.cipher(stored, byStore, plain, dataBytes) === dataBytes &&
          lib.cipherInit(inited, 0, 0, 0, head + HEAD_IV, -1) === 1 &&
          lib.cipher(inited, byInit, plain, dataBytes) === dataBytes &&
          lib.compare(byStore, byInit, dataBytes) === 0 &&
          lib.compare(byStore, plain, dataBytes) !== 0;
      }
    }
    lib.contextFree(stored);
    lib.contextFree(inited);
  }
  lib.clearFree(memory, bytes);
  if (same) proven = 'live-iv';
  return proven;
}
