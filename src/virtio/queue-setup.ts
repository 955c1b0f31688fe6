import type { Iova } from '../pci/dma-port.ts';
import { iovaOf } from '../pci/iova.ts';

/** "No vector": interrupts of this kind are not wanted (virtio 1.2 section 4.1.5.1.2). */
export const NO_VECTOR = 0xffff;

/** Largest queue, virtio 1.2 section 2.7. */
const SIZE_MAX = 32768;

/** What a driver sets up of one queue through the common configuration, section 4.1.4.3. */
export class QueueSetup {
  readonly sizeMax: number;
  size: number;
  vector = NO_VECTOR;
  enabled = false;
  descriptors = 0n;
  driver = 0n;
  device = 0n;

  /** @throws RangeError where the declared size is none */
  constructor(name: string, sizeMax: number) {
    if (!Number.isInteger(sizeMax) || sizeMax < 1 || sizeMax > SIZE_MAX || !isPowerOf2(sizeMax)) {
      throw new RangeError(
        `expected the size of queue '${name}' to be a power of two from 1 to ${SIZE_MAX}, got ${sizeMax}`,
      );
    }
    this.sizeMax = sizeMax;
    this.size = sizeMax;
  }

  reset(): void {
    this.size = this.sizeMax;
    this.vector = NO_VECTOR;
    this.enabled = false;
    this.descriptors = 0n;
    this.driver = 0n;
    this.device = 0n;
  }

  /** Takes a size that the driver wrote; others leave it as it is. */
  resize(size: number): void {
    if (size >= 1 && size <= this.sizeMax && isPowerOf2(size)) this.size = size;
  }

  /** Why a ring cannot lie where the driver put it: the alignments of section 2.7. */
  get misplaced(): string | undefined {
    if (this.descriptors % 16n !== 0n) return 'expected the descriptor area at a multiple of 16';
    if (this.driver % 2n !== 0n) return 'expected the driver area at a multiple of 2';
    if (this.device % 4n !== 0n) return 'expected the device area at a multiple of 4';
    return undefined;
  }
}

export function iovaOfRegister(value: bigint): Iova {
  return iovaOf(Number(value & 0xffff_ffffn), Number(value >> 32n));
}

function isPowerOf2(value: number): boolean {
  return (value & (value - 1)) === 0;
}
