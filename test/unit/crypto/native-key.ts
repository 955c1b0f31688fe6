import { libcrypto } from '../../../src/crypto/libcrypto.ts';
import type { NativeKey } from '../../../src/crypto/xts-cipher.ts';
import { viewOfAddress } from '../../../src/ffi/libc.ts';

/** A known key in native memory, as tests need it; it is never freed. */
export function nativeKey(bytes: Uint8Array): NativeKey {
  if (bytes.length !== 64 && bytes.length !== 32) {
    throw new RangeError(`expected a key of 64 or 32 bytes, got ${bytes.length}`);
  }
  const address = libcrypto().zalloc(bytes.length);
  viewOfAddress(address, bytes.length).set(bytes);
  return { address, bytes: bytes.length };
}

/** A key that no test shares with another: its bytes count up from `seed`. */
export function countingKey(seed: number, bytes: 64 | 32 = 64): NativeKey {
  return nativeKey(Uint8Array.from({ length: bytes }, (_, i) => (seed + i * 37) & 0xff));
}
