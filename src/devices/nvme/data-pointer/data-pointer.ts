import type { DmaPort, Iova } from '../../../pci/index.ts';
import { DmaAbort } from '../../../pci/index.ts';
import { Status } from '../status.ts';
import { FETCH, type PointerStep } from './pointer-step.ts';
import { PrpWalk } from './prp.ts';
import { Segments } from './segments.ts';
import { DESCRIPTORS_AT_ONCE, SglWalk } from './sgl.ts';

/** Of a list of PRPs or SGL descriptors that is read at once: 257 entries for 1 MiB. */
const LIST_BYTES = Math.max(2304, DESCRIPTORS_AT_ONCE * 16);

/** The longest transfer of one command, which bounds a list's part (MDTS, NVMe 1.4 Figure 247). */
export const TRANSFER_BYTES_MAX = 1024 * 1024;

export interface Transfer {
  /** Bytes; at least 1, at most {@link TRANSFER_BYTES_MAX}. */
  readonly length: number;
  /** From the controller to the host. */
  readonly toHost: boolean;
  /** The host's page size, CC.MPS. */
  readonly pageBytes: number;
}

/**
 * The data pointer of a command (NVMe 1.4 §4.2, PSDT and DPTR), walked to the segments of host memory
 * that it names. The walk stops where it needs a list out of host memory, so that the lists of many
 * commands are read in one batch.
 */
export class DataPointer {
  readonly segments = new Segments();
  readonly #prp = new PrpWalk(this.segments);
  readonly #sgl = new SglWalk(this.segments);
  /** Made at the first list. */
  #list: Uint8Array | undefined;
  #words: Uint32Array | undefined;
  #usesSgl = false;

  /** @param words the command's 16 dwords @param runMax longest access of the DMA port */
  begin(words: Uint32Array, transfer: Transfer, runMax: number): PointerStep {
    this.segments.clear(runMax);
    const psdt = ((words[0] as number) >>> 14) & 3;
    if (psdt === 3) return Status.invalidField;
    this.#usesSgl = psdt !== 0;
    return this.#usesSgl
      ? this.#sgl.begin(words, transfer.length, transfer.toHost)
      : this.#prp.begin(words, transfer.length, transfer.pageBytes);
  }

  /** Where the wanted list lies. */
  get iova(): Iova {
    return this.#usesSgl ? this.#sgl.iova : this.#prp.iova;
  }

  /** To be filled with the bytes at {@link iova}, before {@link next}. */
  get list(): Uint8Array {
    this.#list ??= new Uint8Array(LIST_BYTES);
    return this.#list.subarray(0, this.#usesSgl ? this.#sgl.wanted : this.#prp.wanted);
  }

  next(): PointerStep {
    this.#words ??= new Uint32Array((this.#list as Uint8Array).buffer);
    return this.#usesSgl ? this.#sgl.next(this.#words) : this.#prp.next(this.#words);
  }

  /** The whole walk, for a command that is alone: the lists are read one by one. */
  resolve(words: Uint32Array, transfer: Transfer, dma: DmaPort): Status {
    let step = this.begin(words, transfer, dma.maxBytes);
    while (step === FETCH) {
      try {
        dma.readInto(this.iova, this.list);
      } catch (error) {
        if (error instanceof DmaAbort) return Status.dataTransferError;
        throw error;
      }
      step = this.next();
    }
    return step;
  }
}
