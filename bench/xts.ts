/**
 * AES-256-XTS through the default engine, beside a C loop on the same libcrypto in the same process and
 * beside memcpy: decryption of 512 B, 4 KiB, 64 KiB and 1 MiB at the start of a page, and of 64 bytes
 * in the middle of one. Interleaved rounds, medians. `node bench/xts.ts [--json]`.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { EvpXts, type TweakPath } from '../src/crypto/evp-xts.ts';
import { libcrypto } from '../src/crypto/libcrypto.ts';
import { fillRandom, SecretPage } from '../src/keys/secret-memory.ts';

export interface XtsSizeResult {
  readonly bytes: number;
  readonly ours_gib_s: number;
  /** EVP_CipherInit_ex and EVP_CipherUpdate a page: the C loop of the bar. */
  readonly c_gib_s: number;
  /** The same C loop with the engine's own way of setting the tweak. */
  readonly c_live_iv_gib_s: number;
  readonly memcpy_gib_s: number;
  /** ours / c */
  readonly ratio: number;
  /** ours / C by the same way: what JavaScript and FFI cost. */
  readonly ratio_live_iv: number;
  /** ours / memcpy */
  readonly ratio_memcpy: number;
}

export interface XtsResult {
  readonly engine: 'evp';
  readonly tweakPath: TweakPath;
  readonly libcrypto: string;
  readonly sizes: readonly XtsSizeResult[];
  /** Nanoseconds a call. */
  readonly inside: {
    /** 64 bytes at page offset 4000: whole blocks, the tweak of block 250. */
    readonly read_64_at_4000_ns: number;
    /** 64 bytes at page offset 3999: two edge blocks. */
    readonly read_64_at_3999_ns: number;
    readonly write_64_at_3999_ns: number;
    readonly read_4096_at_0_ns: number;
  };
}

const SIZES = [512, 4096, 65_536, 1_048_576] as const;
export const XTS_ROUNDS = 15;
/** Each measurement works through about this much: some 0.5 ms. */
const BYTES_A_ROUND = 4 * 1_048_576;
const CALLS_A_ROUND_MAX = 2_000;
const REGION_BYTES = 1_048_576;
const GIB = 2 ** 30;

/** @throws Error where there is no C compiler, or results differ. */
export async function benchXts(): Promise<XtsResult> {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-bench-'));
  try {
    return measure(buildPeer(directory));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

interface Peer {
  open(key: number): number;
  close(context: number): void;
  decrypt(
    context: number,
    out: number,
    from: number,
    unit: number,
    bytes: number,
    times: number,
  ): number;
  decryptLiveIv: Peer['decrypt'];
  copy(out: number, from: number, bytes: number, times: number): void;
}

function buildPeer(directory: string): Peer {
  const object = join(directory, 'xts_loop.so');
  const source = join(import.meta.dirname, 'c', 'xts_loop.c');
  execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-fPIC', '-shared', '-o', object, source]);
  const library = koffi.load(object);
  const at = 'uintptr_t';
  const loop = ['uintptr_t', at, at, 'uint64_t', 'size_t', 'uint32_t'];
  return {
    open: library.func('xts_open', at, [at]),
    close: library.func('xts_close', 'void', [at]),
    decrypt: library.func('xts_decrypt', 'int', loop),
    decryptLiveIv: library.func('xts_decrypt_live_iv', 'int', loop),
    copy: library.func('copy_loop', 'void', [at, at, 'size_t', 'uint32_t']),
  };
}

function measure(peer: Peer): XtsResult {
  const lib = libcrypto();
  const page = new SecretPage();
  const key = { address: page.addressAt(0, 64), bytes: 64 } as const;
  fillRandom(key.address, key.bytes);
  const memory = lib.zalloc(3 * REGION_BYTES + 4096);
  const source = Math.ceil(memory / 4096) * 4096;
  const ours = source + REGION_BYTES;
  const theirs = ours + REGION_BYTES;
  fillRandom(source, 256);
  for (let done = 256; done < REGION_BYTES; done *= 2) lib.copy(source + done, source, done);

  const cipher = new EvpXts(key);
  const context = peer.open(key.address);
  if (context === 0) throw new Error('expected the C loop to open AES-256-XTS, got no context');
  try {
    for (const loop of [peer.decrypt, peer.decryptLiveIv]) {
      cipher.decrypt(source, ours, 77, 0, REGION_BYTES);
      if (loop(context, theirs, source, 77, REGION_BYTES, 1) !== 0)
        throw new Error('C loop failed');
      if (lib.compare(ours, theirs, REGION_BYTES) !== 0) {
        throw new Error('expected the engine and the C loop to agree, got different plaintext');
      }
    }
    const sizes = SIZES.map((bytes) => {
      const times = Math.min(CALLS_A_ROUND_MAX, Math.max(1, BYTES_A_ROUND / bytes));
      const [oursNs, cNs, liveNs, copyNs] = interleaved([
        () => {
          for (let i = 0; i < times; i += 1) cipher.decrypt(source, ours, 77, 0, bytes);
        },
        () => peer.decrypt(context, theirs, source, 77, bytes, times),
        () => peer.decryptLiveIv(context, theirs, source, 77, bytes, times),
        () => peer.copy(theirs, source, bytes, times),
      ]) as [number, number, number, number];
      const rate = (ns: number) => round((bytes * times * 1e9) / ns / GIB);
      return {
        bytes,
        ours_gib_s: rate(oursNs),
        c_gib_s: rate(cNs),
        c_live_iv_gib_s: rate(liveNs),
        memcpy_gib_s: rate(copyNs),
        ratio: round(cNs / oursNs),
        ratio_live_iv: round(liveNs / oursNs),
        ratio_memcpy: round(copyNs / oursNs),
      };
    });
    const times = CALLS_A_ROUND_MAX;
    const repeat = (call: () => void) => () => {
      for (let i = 0; i < times; i += 1) call();
    };
    const [aligned, unaligned, write, whole] = interleaved([
      repeat(() => cipher.decrypt(source, ours, 77, 4000, 64)),
      repeat(() => cipher.decrypt(source, ours, 77, 3999, 64)),
      repeat(() => cipher.encrypt(ours, theirs, 77, 3999, 64)),
      repeat(() => cipher.decrypt(source, ours, 77, 0, 4096)),
    ]).map((ns) => Math.round(ns / times)) as [number, number, number, number];
    return {
      engine: 'evp',
      tweakPath: cipher.tweakPath,
      libcrypto: lib.version,
      sizes,
      inside: {
        read_64_at_4000_ns: aligned,
        read_64_at_3999_ns: unaligned,
        write_64_at_3999_ns: write,
        read_4096_at_0_ns: whole,
      },
    };
  } finally {
    peer.close(context);
    cipher.close();
    page.release();
    lib.clearFree(memory, 3 * REGION_BYTES + 4096);
  }
}

/** The median time of each in nanoseconds, over rounds in which all take their turn. */
function interleaved(runs: readonly (() => unknown)[]): number[] {
  const times: number[][] = runs.map(() => []);
  for (const run of runs) for (let i = 0; i < 3; i += 1) run();
  for (let turn = 0; turn < XTS_ROUNDS; turn += 1) {
    for (const [index, run] of runs.entries()) {
      const begin = process.hrtime.bigint();
      run();
      times[index]?.push(Number(process.hrtime.bigint() - begin));
    }
  }
  return times.map((list) => list.sort((a, b) => a - b)[list.length >> 1] ?? Number.NaN);
}

function round(value: number): number {
  return Math.round(value * 1000) / 1000;
}

if (import.meta.main) {
  const result = await benchXts();
  if (process.argv.includes('--json')) console.log(JSON.stringify(result));
  else {
    console.log(`AES-256-XTS, OpenSSL ${result.libcrypto}, tweak by ${result.tweakPath}; GiB/s`);
    console.table(result.sizes);
    console.log('one call inside a page, ns', result.inside);
  }
}
