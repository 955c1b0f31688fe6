import type { BlockStorage } from '../../storage/block-storage.ts';

export type BlockBytes = 512 | 4096;

/** A namespace (NVMe 1.4 §6.1): logical blocks over a storage of the host. */
export class Namespace {
  /** From 1. */
  readonly nsid: number;
  readonly storage: BlockStorage;
  #blockBytes: BlockBytes;
  /** Set by the Namespace Write Protection feature (§8.19). */
  writeProtected = false;

  constructor(nsid: number, storage: BlockStorage, blockBytes: BlockBytes = 512) {
    this.nsid = nsid;
    this.storage = storage;
    this.#blockBytes = blockBytes;
  }

  get blockBytes(): BlockBytes {
    return this.#blockBytes;
  }

  /** Whole blocks; what is left of the file behind them is out of reach. */
  get blocks(): number {
    return Math.floor(this.storage.bytes / this.#blockBytes);
  }

  get readOnly(): boolean {
    return this.storage.readOnly || this.writeProtected;
  }

  /** Format NVM (§5.23) gave it another block size; its data is the caller's to erase. */
  reformat(blockBytes: BlockBytes): void {
    this.#blockBytes = blockBytes;
  }
}
