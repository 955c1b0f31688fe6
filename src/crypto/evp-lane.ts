/**
 * One direction of a key in libcrypto: a context, and the way that the tweak of a data unit gets there.
 * @module
 */
import { viewOfAddress } from '../ffi/libc.ts';
import { type Libcrypto, libcrypto } from './libcrypto.ts';
import { JOB, JOB_BYTES, pageLoop, setJob } from './page-loop.ts';
import { XtsError } from './xts-cipher.ts';

/**
 * How the tweak of a data unit reaches the context, the fastest first:
 * - `page-loop`: stored to the live IV by native code, one call for any number of units;
 * - `live-iv`: stored to the live IV, and EVP_Cipher called for each unit;
 * - `init`: EVP_CipherInit_ex and EVP_Cipher called for each unit.
 */
export type TweakPath = 'page-loop' | 'live-iv' | 'init';

/** An IV outside any context, for the `init` path; allocated once, never freed. */
let spareIv = 0;
let spareIvWords: Uint32Array = new Uint32Array(0);

export class EvpLane {
  readonly context: number;
  /** The address to put the IV of the next call at. */
  readonly iv: number;
  readonly #ivWords: Uint32Array;
  readonly #path: TweakPath;
  readonly #lib: Libcrypto;
  readonly #job: number;
  readonly #jobWords: Uint32Array;
  readonly #run: (job: number) => number;
  readonly #unitBytes: number;

  /** @param key address of Key1 and Key2. @throws XtsError */
  constructor(
    lib: Libcrypto,
    keyBits: 128 | 256,
    key: number,
    encrypt: 0 | 1,
    unitBytes: number,
    path: TweakPath,
  ) {
    this.#lib = lib;
    this.#path = path;
    this.#unitBytes = unitBytes;
    this.context = openContext(lib, `AES-${keyBits}-XTS`, key, encrypt);
    const live = path === 'init' ? 0 : (lib.liveIv?.(this.context) ?? 0);
    if (path !== 'init' && live === 0) {
      lib.contextFree(this.context);
      throw new XtsError(`expected a live IV for the ${path} path, got none: use the init path`);
    }
    this.iv = live === 0 ? spareIv : live;
    this.#ivWords = live === 0 ? spareIvWords : new Uint32Array(viewOfAddress(live, 16).buffer);

    const loop = path === 'page-loop' ? pageLoop() : undefined;
    if (path === 'page-loop' && loop === undefined) {
      lib.contextFree(this.context);
      throw new XtsError('expected executable memory for the page loop, got none: use live-iv');
    }
    this.#run = loop?.run ?? unreachable;
    this.#job = loop === undefined ? 0 : reserve(lib, JOB_BYTES);
    this.#jobWords =
      loop === undefined
        ? spareIvWords
        : new Uint32Array(viewOfAddress(this.#job, JOB_BYTES).buffer);
    if (loop !== undefined) {
      setJob(this.#jobWords, JOB.context, this.context);
      setJob(this.#jobWords, JOB.iv, live);
      setJob(this.#jobWords, JOB.call, loop.call);
      setJob(this.#jobWords, JOB.unitBytes, unitBytes);
    }
  }

  /** Units from block 0 of `unit` on; the last may stop at any block. @throws XtsError */
  units(from: number, into: number, unit: number, bytes: number): void {
    const iv = this.#ivWords;
    iv[2] = 0;
    iv[3] = 0;
    if (this.#path === 'page-loop') {
      const job = this.#jobWords;
      setJob(job, JOB.into, into);
      setJob(job, JOB.from, from);
      setJob(job, JOB.bytes, bytes);
      setJob(job, JOB.unit, unit);
      if (this.#run(this.#job) !== 0) this.fail('EVP_Cipher');
      return;
    }
    const unitBytes = this.#unitBytes;
    for (let at = 0, number = unit; at < bytes; at += unitBytes, number += 1) {
      const size = Math.min(unitBytes, bytes - at);
      iv[0] = number;
      iv[1] = number / 0x1_0000_0000;
      this.continue(from + at, into + at, size);
    }
  }

  /** One call from the tweak whose IV the caller has put at {@link iv}. @throws XtsError */
  continue(from: number, into: number, bytes: number): void {
    if (this.#path === 'init' && this.#lib.cipherInit(this.context, 0, 0, 0, this.iv, -1) !== 1) {
      this.fail('EVP_CipherInit_ex');
    }
    if (this.#lib.cipher(this.context, into, from, bytes) !== bytes) this.fail('EVP_Cipher');
  }

  fail(what: string): never {
    throw new XtsError(`expected ${what} to succeed, got ${this.#lib.errorText()}`);
  }

  /** libcrypto cleanses the key schedule. */
  free(): void {
    this.#lib.contextFree(this.context);
    if (this.#job !== 0) this.#lib.clearFree(this.#job, JOB_BYTES);
  }
}

/** A context with its key and some IV: XTS refuses to work before it has one. @throws XtsError */
export function openContext(lib: Libcrypto, name: string, key: number, encrypt: 0 | 1): number {
  if (spareIv === 0) {
    spareIv = reserve(lib, 16);
    spareIvWords = new Uint32Array(viewOfAddress(spareIv, 16).buffer);
  }
  const cipher = lib.cipherFetch(0, name, 0);
  if (cipher === 0) {
    throw new XtsError(`expected libcrypto ${lib.version} to have ${name}, got ${lib.errorText()}`);
  }
  const context = lib.contextNew();
  const done =
    context !== 0 &&
    lib.cipherInit(context, cipher, 0, key, spareIv, encrypt) === 1 &&
    lib.setPadding(context, 0) === 1;
  lib.cipherFree(cipher);
  if (!done) {
    if (context !== 0) lib.contextFree(context);
    throw new XtsError(`expected ${name} to take the key, got ${lib.errorText()}`);
  }
  return context;
}

/** libcrypto keeps the schedule within this many bytes of a context's IV (OpenSSL 3: some 700). */
const SCHEDULE_BYTES = 2048;

/**
 * Keeps the key schedule of a context, which lies in libcrypto's heap, out of swap and core dumps.
 * False where it cannot be found or locked.
 */
export function lockSchedule(lib: Libcrypto, context: number): boolean {
  const iv = lib.liveIv?.(context) ?? 0;
  return iv !== 0 && lib.lock(iv, SCHEDULE_BYTES);
}

/** Zeroed native memory of libcrypto. @throws XtsError */
export function reserve(lib: Libcrypto, bytes: number): number {
  const address = lib.zalloc(bytes);
  if (address === 0) throw new XtsError(`expected ${bytes} bytes of memory, got none`);
  return address;
}

let proven: TweakPath | undefined;

/**
 * The fastest path that is proved to do what `init` does, on this very libcrypto: the same units under
 * several numbers, in both directions, with a key that is no secret. The first call tries, the rest know.
 */
export function provenTweakPath(): TweakPath {
  proven ??= (['page-loop', 'live-iv'] as const).find(equalsInit) ?? 'init';
  return proven;
}

function equalsInit(path: TweakPath): boolean {
  const lib = libcrypto();
  if (lib.liveIv === undefined) return false;
  if (path === 'page-loop' && pageLoop() === undefined) return false;
  const keyBytes = 64;
  const unitBytes = 32;
  const dataBytes = 3 * unitBytes - 16;
  const bytes = keyBytes + 3 * dataBytes;
  const memory = reserve(lib, bytes);
  const view = viewOfAddress(memory, bytes);
  for (let i = 0; i < keyBytes + dataBytes; i += 1) view[i] = i;
  const plain = memory + keyBytes;
  const tried = plain + dataBytes;
  const known = tried + dataBytes;
  let same = true;
  for (const direction of [0, 1] as const) {
    const lanes = [path, 'init' as const].map(
      (each) => new EvpLane(lib, 256, memory, direction, unitBytes, each),
    );
    const [trial, reference] = lanes as [EvpLane, EvpLane];
    for (const unit of [1, 0, 0xffff_fffe, 0x9a_bcde_f012, 2]) {
      trial.units(plain, tried, unit, dataBytes);
      reference.units(plain, known, unit, dataBytes);
      same &&= lib.compare(tried, known, dataBytes) === 0;
      same &&= lib.compare(tried, plain, dataBytes) !== 0;
    }
    for (const lane of lanes) lane.free();
  }
  lib.clearFree(memory, bytes);
  return same;
}

function unreachable(): never {
  throw new XtsError('expected a path with a page loop, got one without');
}
