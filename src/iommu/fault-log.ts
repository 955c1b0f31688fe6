import type { KeySlot } from '../keys/key-slot.ts';
import type { VmId } from '../keys/vm-id.ts';
import type { DmaDirection, FaultReason, Iova } from '../pci/dma-port.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import { Watchers } from './watchers.ts';

/**
 * One DMA that was refused, or that was done and met pages of the other kind: who, where, why (AMD IOMMU
 * event log, 48882 §2.5). Never holds data or a key.
 */
export interface FaultRecord {
  /** Counts from 1 and never repeats, also across records that the log dropped. */
  readonly sequence: number;
  /** Milliseconds since the epoch. */
  readonly time: number;
  readonly rid: RequesterId;
  readonly direction: DmaDirection;
  readonly iova: Iova;
  /** Bytes asked for. */
  readonly length: number;
  readonly reason: FaultReason;
  /** False where the DMA was done all the same: `page-is-shared` and `page-is-private`. */
  readonly refused: boolean;
  /** What the device table said, where it had an entry. */
  readonly domain: number | undefined;
  readonly vm: VmId | undefined;
  /** The slot that the translation named, or else the device table's. Undefined for an access in the clear. */
  readonly slot: KeySlot | undefined;
  /** Of the newest key that this slot has or had; 0 where it never had one. */
  readonly generation: number | undefined;
}

/** The IOMMU's event log: the newest records, a count of all, and who wants to hear of each. */
export class FaultLog {
  readonly #capacity: number;
  readonly #records: FaultRecord[] = [];
  readonly #watchers = new Watchers<[fault: FaultRecord]>();
  #total = 0;

  /** @param capacity how many records are kept; older ones are dropped, and counted. */
  constructor(capacity = 4096) {
    this.#capacity = capacity;
  }

  /** Records since the start. */
  get total(): number {
    return this.#total;
  }

  /** Records that had to make room for newer ones. */
  get dropped(): number {
    return this.#total - this.#records.length;
  }

  /** Oldest first. */
  get records(): readonly FaultRecord[] {
    return this.#records;
  }

  /** The records after `sequence`, oldest first: `since(log.total)` is empty. */
  since(sequence: number): readonly FaultRecord[] {
    return this.#records.filter((record) => record.sequence > sequence);
  }

  record(fault: Omit<FaultRecord, 'sequence' | 'time' | 'refused'>): FaultRecord {
    const refused = fault.reason !== 'page-is-shared' && fault.reason !== 'page-is-private';
    const record: FaultRecord = { sequence: ++this.#total, time: Date.now(), ...fault, refused };
    this.#records.push(record);
    if (this.#records.length > this.#capacity) this.#records.shift();
    this.#watchers.tell(record);
    return record;
  }

  /** Calls `listener` with each record from now on. Answers how to stop that. */
  onFault(listener: (fault: FaultRecord) => void): () => void {
    return this.#watchers.add(listener);
  }
}
