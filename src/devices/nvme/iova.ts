import type { Iova } from '../../pci/index.ts';

/**
 * An address out of two 32-bit halves: a number where that is exact, so that the paths that are hot
 * never see a bigint. Above 2^53 nothing translates, and only the fault record wants the exact value.
 */
export function iovaOf(low: number, high: number): Iova {
  if (high < 0x20_0000) return high * 0x1_0000_0000 + low;
  return (BigInt(high) << 32n) | BigInt(low);
}

export function iovaFrom(address: bigint): Iova {
  return address <= Number.MAX_SAFE_INTEGER ? Number(address) : address;
}

/** `iova + bytes`; past 2^64 it starts anew, as a 64-bit adder does. */
export function iovaPlus(iova: Iova, bytes: number): Iova {
  if (typeof iova === 'number') return iova + bytes;
  return BigInt.asUintN(64, iova + BigInt(bytes));
}
