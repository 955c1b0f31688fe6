import { bit, memoryBar, reg32, reg64, ro, ro32, wo32 } from '../../pci/index.ts';

/**
 * The register file of edu: QEMU's docs/specs/edu.rst, "MMIO area spec".
 *
 * Below 0x80 accesses have 4 bytes, from 0x80 on 4 or 8. Anything else the device does not take:
 * QEMU's edu reads all ones there, and 0 where an access is narrower than 4 bytes or unaligned;
 * writes are dropped. So does this one, and says so by link.unmodelled.
 */

/** Major version 1, minor version 0. */
const IDENTIFICATION = 0x0100_00ed;

const BAR_BYTES = 1024 * 1024;

/** An access of 4 bytes reaches the lower half of a DMA register; a write clears the upper. */
const DMA_REGISTER = { widths: [4, 8], narrow: 'zero-extend' } as const;

/** What the registers set off; values are as the guest wrote them. */
export interface EduActions {
  invert(value: number): void;
  startFactorial(): void;
  isComputing(): boolean;
  raise(causes: number): void;
  acknowledge(causes: number): void;
  startDma(): void;
  isTransferring(): boolean;
}

export function eduRegisters(act: EduActions) {
  const dma = { ...DMA_REGISTER, lockedWhile: () => act.isTransferring() };
  return memoryBar(
    BAR_BYTES,
    {
      identification: ro32(0x00, { reset: IDENTIFICATION }),
      /** Reads the inverse of what was written. */
      liveness: reg32(0x04, { onWrite: (value) => act.invert(value) }),
      /** Write n, read n! (32 bits) once `status.computing` is clear. */
      factorial: reg32(0x08, {
        lockedWhile: () => act.isComputing(),
        onWrite: () => act.startFactorial(),
      }),
      status: reg32(0x20, { computing: ro(bit(0)), interruptWhenComputed: bit(7) }),
      /** The causes that were raised and not acknowledged. */
      interruptStatus: ro32(0x24),
      interruptRaise: wo32(0x60, { onWrite: (causes) => act.raise(causes) }),
      interruptAcknowledge: wo32(0x64, { onWrite: (causes) => act.acknowledge(causes) }),
      dmaSource: reg64(0x80, dma),
      dmaDestination: reg64(0x88, dma),
      /** Bytes. */
      dmaCount: reg64(0x90, dma),
      dmaCommand: reg64(
        0x98,
        {
          start: bit(0),
          /** From edu to RAM; else from RAM to edu. */
          toRam: bit(1),
          interruptWhenDone: bit(2),
        },
        {
          ...DMA_REGISTER,
          lockedWhile: () => act.isTransferring(),
          onWrite: (now, before) => {
            // A command that starts nothing is dropped, as in QEMU.
            if (now.start) act.startDma();
            else now.value = before.value;
          },
        },
      ),
    },
    { unmodelled: 'ones', wide: 'refuse', decodes: [4, 8] },
  );
}
