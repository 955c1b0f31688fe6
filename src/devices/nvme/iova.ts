import type { Iova } from '../../pci/index.ts';

/** A number where that is exact, as {@link iovaOf} has it. */
export function iovaFrom(address: bigint): Iova {
  return address <= Number.MAX_SAFE_INTEGER ? Number(address) : address;
}

/** `iova + bytes`; past 2^64 it starts anew, as a 64-bit adder does. */
export function iovaPlus(iova: Iova, bytes: number): Iova {
  if (typeof iova === 'number') return iova + bytes;
  return BigInt.asUintN(64, iova + BigInt(bytes));
}
