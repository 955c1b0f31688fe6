import type { DmaAbort, DmaAccess, DmaPort, Iova } from '../pci/dma-port.ts';
import { iovaPlus } from './iova.ts';

const NOTHING = new Uint8Array(0);

/** Accesses that go to the port as one batch; made once and used again and again. */
export class DmaList {
  readonly #accesses: DmaAccess[] = [];
  #count = 0;
  #bytes = 0;

  get count(): number {
    return this.#count;
  }

  /** Bytes of all accesses in the list. */
  get bytes(): number {
    return this.#bytes;
  }

  /** An access of any length: what is longer than the port takes is split. */
  add(dma: DmaPort, iova: Iova, bytes: Uint8Array): void {
    this.#bytes += bytes.length;
    if (bytes.length <= dma.maxBytes) {
      this.#push(iova, bytes);
      return;
    }
    for (let at = 0; at < bytes.length; at += dma.maxBytes) {
      this.#push(iovaPlus(iova, at), bytes.subarray(at, at + dma.maxBytes));
    }
  }

  /** Reads all of it and empties the list; answers the first refusal. */
  read(dma: DmaPort): DmaAbort | undefined {
    try {
      return this.#first(dma.readBatch(this.#accesses, this.#count));
    } finally {
      this.#clear();
    }
  }

  /** Writes all of it and empties the list; answers the first refusal. */
  write(dma: DmaPort): DmaAbort | undefined {
    try {
      return this.#first(dma.writeBatch(this.#accesses, this.#count));
    } finally {
      this.#clear();
    }
  }

  /** Also after a throw: what is in the list must never go out by another port. */
  #clear(): void {
    for (let n = 0; n < this.#count; n++) {
      const access = this.#accesses[n] as DmaAccess;
      access.bytes = NOTHING;
      access.abort = undefined;
    }
    this.#count = 0;
    this.#bytes = 0;
  }

  #first(refused: number): DmaAbort | undefined {
    for (let n = 0; refused > 0 && n < this.#count; n++) {
      const abort = this.#accesses[n]?.abort;
      if (abort !== undefined) return abort;
    }
    return undefined;
  }

  #push(iova: Iova, bytes: Uint8Array): void {
    const access = this.#accesses[this.#count];
    if (access === undefined) {
      this.#accesses.push({ iova, bytes, abort: undefined });
    } else {
      access.iova = iova;
      access.bytes = bytes;
    }
    this.#count++;
  }
}
