import type { Iova } from '../pci/dma-port.ts';

/** Beyond this the upper half no longer fits a number together with the lower. */
const HIGH_END = 2 ** 21;

/** An address of two 32-bit halves: a number where that is exact. */
export function iovaOf(low: number, high: number): Iova {
  if (high < HIGH_END) return high * 2 ** 32 + low;
  return (BigInt(high) << 32n) | BigInt(low);
}

/** As a bigint where a number would not be exact; what overflows 64 bits is refused by the port. */
export function iovaPlus(iova: Iova, bytes: number): Iova {
  if (typeof iova === 'bigint') return iova + BigInt(bytes);
  const sum = iova + bytes;
  return sum <= Number.MAX_SAFE_INTEGER ? sum : BigInt(iova) + BigInt(bytes);
}
