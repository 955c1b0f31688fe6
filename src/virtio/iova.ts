import type { Iova } from '../pci/dma-port.ts';

/** As a bigint where a number would not be exact; what overflows 64 bits is refused by the port. */
export function iovaPlus(iova: Iova, bytes: number): Iova {
  if (typeof iova === 'bigint') return iova + BigInt(bytes);
  const sum = iova + bytes;
  return sum <= Number.MAX_SAFE_INTEGER ? sum : BigInt(iova) + BigInt(bytes);
}
