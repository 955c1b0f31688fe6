import type { Iova } from './dma-port.ts';

/** Beyond this the upper half no longer fits a number together with the lower. */
const HIGH_END = 2 ** 21;

/**
 * An address of two 32-bit halves: a number where that is exact, so that hot paths never see a bigint.
 * Above 2^53 nothing translates, and only the fault record wants the exact value.
 */
export function iovaOf(low: number, high: number): Iova {
  if (high < HIGH_END) return high * 2 ** 32 + low;
  return (BigInt(high) << 32n) | BigInt(low);
}
