import { type Gpa, MemoryError } from '../memory/guest-memory.ts';
import type { Iova } from '../pci/dma-port.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { DmaMade } from './dma-faults.ts';
import { type ArmedOf, faultOn } from './fault.ts';
import { optionalNumber } from './parameter.ts';

export const dramFaults = {
  'dram.flip': faultOn<DmaMade>()({
    says: 'A bit flips in DRAM before a DMA reads there.',
    occasion: 'each DMA read; of a batch each access',
    parameters: {
      gpa: optionalNumber(
        'guest-physical address of the byte; default one that the DMA reads',
        0,
        Number.MAX_SAFE_INTEGER,
      ),
      bit: optionalNumber('which of it, 0 to 7; default any', 0, 7),
    },
  }),
};

export type ArmedFlip = ArmedOf<typeof dramFaults>;

/** DRAM behind a function, as far as a fault reaches. */
export interface DramUnderTest {
  /** Where an address of the function's leads to; undefined where it leads nowhere. */
  gpaOf(rid: RequesterId, iova: Iova): Gpa | undefined;
  /** @throws MemoryError where no guest memory is there */
  flipBit(address: Gpa, bit: number): void;
}

/** Flips the bit that the fault names, or one that it draws of the DMA's. */
export function flip(fault: ArmedFlip, dma: DmaMade, dram: DramUnderTest): void {
  const { parameters, stream } = fault;
  // Drawn in any case: what is given does not shift what is not.
  const at = stream.below(dma.length);
  const drawn = stream.below(8);
  const bit = parameters.bit ?? drawn;
  const iova = typeof dma.iova === 'bigint' ? dma.iova + BigInt(at) : dma.iova + at;
  const address = (parameters.gpa as Gpa | undefined) ?? dram.gpaOf(dma.rid, iova);
  // A DMA that leads nowhere is refused a moment later.
  if (address === undefined) return;
  try {
    dram.flipBit(address, bit);
  } catch (error) {
    // No memory is there, or it does not answer: what the DMA makes of that is not the fault's.
    if (error instanceof MemoryError) return;
    throw error;
  }
  fault.struck(`bit ${bit} of the byte at 0x${address.toString(16)}`);
}
