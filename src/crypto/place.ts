/**
 * Where bytes lie: a native address as a JavaScript number (the fastest thing koffi passes), or an
 * array. An array's bytes have a native address too; its look-up costs about 50 ns, so the last one
 * is remembered.
 * @module
 */
import koffi from 'koffi';

export type Place = number | Uint8Array;

/**
 * The buffers used last, one for each side of a call. Holding them also keeps their memory where it is
 * while native code works on it. A detached one has no bytes and fails the check.
 */
const remembered = {
  source: { buffer: undefined as ArrayBufferLike | undefined, address: 0 },
  destination: { buffer: undefined as ArrayBufferLike | undefined, address: 0 },
};

/**
 * The native address of a place of at least `bytes`. It holds until the next look-up of the same side.
 * @throws RangeError where an array is too short, or an address is none.
 */
export function addressOf(place: Place, bytes: number, side: 'source' | 'destination'): number {
  if (typeof place === 'number') {
    if (!Number.isSafeInteger(place) || place <= 0) {
      throw new RangeError(`expected ${side} as a native address, got ${place}`);
    }
    return place;
  }
  if (place.byteLength < bytes) {
    throw new RangeError(`expected ${side} to have ${bytes} bytes, got ${place.byteLength}`);
  }
  const memo = side === 'source' ? remembered.source : remembered.destination;
  const buffer = place.buffer;
  if (buffer !== memo.buffer) {
    memo.address = Number(koffi.address(buffer));
    memo.buffer = buffer;
  }
  return memo.address + place.byteOffset;
}
