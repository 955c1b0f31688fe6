/** Numbers of 1, 2, 4 or 8 bytes as PCI and guests have them: little-endian; a bigint where 8. */

export type Width = 1 | 2 | 4 | 8;

/** What is written: of 8 bytes a number will do where it is exact. */
export type Writable = number | bigint;

const scratch = new DataView(new ArrayBuffer(8));
const scratchBytes = new Uint8Array(scratch.buffer);

/** @throws RangeError where the value has not `width` bytes; `what` names it */
export function encoded(value: Writable, width: Width, what: () => string): Uint8Array {
  const whole = typeof value === 'bigint' || Number.isSafeInteger(value);
  const big = whole ? BigInt(value) : -1n;
  if (!whole || BigInt.asUintN(width * 8, big) !== big) {
    const got = typeof value === 'number' ? value : `0x${value.toString(16)}`;
    throw new RangeError(
      `expected a value from 0 to 2^${width * 8} - 1 for ${what()}, got ${String(got)}`,
    );
  }
  scratch.setBigUint64(0, big, true);
  return scratchBytes.slice(0, width);
}

export function decoded(bytes: Uint8Array): bigint {
  scratch.setBigUint64(0, 0n, true);
  scratchBytes.set(bytes.subarray(0, 8));
  return scratch.getBigUint64(0, true);
}
