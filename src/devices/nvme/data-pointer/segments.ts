import type { Iova } from '../../../pci/index.ts';
import type { DmaBatch } from '../dma-batch.ts';
import { iovaPlus } from '../iova.ts';

/**
 * Where the bytes of one command's data lie in host memory: runs in the order of the data. Runs that
 * follow each other are one, so that 128 KiB of neighbouring pages are a single access.
 */
export class Segments {
  readonly #iovas: Iova[] = [];
  /** Of the first byte of each run in the data. */
  readonly #offsets: number[] = [];
  readonly #lengths: number[] = [];
  #count = 0;
  #offset = 0;
  #runMax = 0;

  get count(): number {
    return this.#count;
  }

  /** Bytes of data that have a place, those that are skipped too. */
  get bytes(): number {
    return this.#offset;
  }

  /** @param runMax bytes of the longest access that the DMA port takes */
  clear(runMax: number): void {
    this.#count = 0;
    this.#offset = 0;
    this.#runMax = runMax;
  }

  add(iova: Iova, length: number): void {
    const last = this.#count - 1;
    if (last >= 0) {
      const run = this.#lengths[last] as number;
      const follows =
        iovaPlus(this.#iovas[last] as Iova, run) === iova &&
        (this.#offsets[last] as number) + run === this.#offset;
      if (follows && run + length <= this.#runMax) {
        this.#lengths[last] = run + length;
        this.#offset += length;
        return;
      }
    }
    for (let done = 0; done < length; ) {
      const part = Math.min(length - done, this.#runMax);
      this.#iovas[this.#count] = iovaPlus(iova, done);
      this.#offsets[this.#count] = this.#offset;
      this.#lengths[this.#count] = part;
      this.#count++;
      this.#offset += part;
      done += part;
    }
  }

  /** The next `length` bytes of data go nowhere: a bit bucket. */
  skip(length: number): void {
    this.#offset += length;
  }

  /** An access for each run, to or from its part of `data`. */
  addTo<Owner>(batch: DmaBatch<Owner>, owner: Owner, data: Uint8Array): void {
    for (let at = 0; at < this.#count; at++) {
      const offset = this.#offsets[at] as number;
      const length = this.#lengths[at] as number;
      const whole = length === data.length;
      batch.add(
        owner,
        this.#iovas[at] as Iova,
        whole ? data : data.subarray(offset, offset + length),
      );
    }
  }
}
