import type { DmaEvent, FaultEvent, ResetEvent } from '../event.ts';

const EXAMPLES_MAX = 10;

/** A DMA between a reset of the function and the driver's next access to it. */
export interface LateDma {
  /** Nanoseconds since the trace began. */
  readonly t: number;
  /** Nanoseconds since the reset. */
  readonly afterNs: number;
  readonly cause: ResetEvent['cause'];
  readonly direction: 'read' | 'write';
  readonly iova: string;
  readonly bytes: number;
  /** Whether the IOMMU refused it. */
  readonly refused: boolean;
}

/** What a function does when it has been reset and nobody has asked it for anything yet. */
export class AfterReset {
  readonly examples: LateDma[] = [];
  count = 0;
  #reset: ResetEvent | undefined;

  reset(event: ResetEvent): void {
    this.#reset = event;
  }

  /** The driver has come back to it. */
  touched(): void {
    this.#reset = undefined;
  }

  dma(event: DmaEvent | FaultEvent): void {
    const reset = this.#reset;
    if (reset === undefined) return;
    this.count++;
    if (this.examples.length >= EXAMPLES_MAX) return;
    const { t, direction, iova, bytes } = event;
    const refused = event.kind === 'fault';
    const { cause } = reset;
    this.examples.push({ t, afterNs: t - reset.t, cause, direction, iova, bytes, refused });
  }
}
