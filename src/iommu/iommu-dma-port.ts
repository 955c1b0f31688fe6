import { type KeySlot, keySlot } from '../keys/key-slot.ts';
import { type Gpa, type GuestMemory, gpa, MemoryError } from '../memory/guest-memory.ts';
import {
  DmaAbort,
  type DmaAccess,
  type DmaDirection,
  type DmaPort,
  type FaultReason,
  type Iova,
} from '../pci/dma-port.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { DeviceTable, DeviceTableEntry } from './device-table.ts';
import { allows, type Translation } from './domain.ts';
import type { FaultLog } from './fault-log.ts';
import type { Iotlb } from './iotlb.ts';
import type { SlotDirectory } from './slot-directory.ts';

/** Longest single access in bytes; bounds the segments one access may fall into. */
export const DMA_MAX_BYTES = 16 * 1024 * 1024;

/** A run of bytes that lies together in guest-physical memory and goes through one slot. */
interface Segment {
  address: Gpa;
  length: number;
  slot: KeySlot;
}

/** What a port needs of the IOMMU it belongs to. */
export interface IommuParts {
  readonly table: DeviceTable;
  readonly iotlb: Iotlb;
  readonly slots: SlotDirectory;
  readonly faults: FaultLog;
}

/**
 * The one way from a function to guest memory (patent claim 1): rid → device-table entry → domain →
 * GPA and key slot → memory controller.
 *
 * An access is checked whole before its first byte moves: every segment is translated, its rights,
 * its slot and its memory looked at, and only then is data touched. So a refusal discloses and
 * alters nothing, and leaves exactly one record. Calls do not overlap (they are synchronous on one
 * thread), which is why the translation and the segments are kept and used again.
 */
export class IommuDmaPort implements DmaPort {
  readonly rid: RequesterId;
  readonly maxBytes = DMA_MAX_BYTES;
  /**
   * The function's bus master enable (PCI Local Bus 3.0 §6.2.2, command register bit 2), kept up
   * to date by its transport. Off after power-on: a DMA is refused.
   */
  busMaster = false;

  readonly #iommu: IommuParts;
  readonly #memory: GuestMemory;
  readonly #translation: Translation = {
    address: gpa(0),
    length: 0,
    rights: 'none',
    slot: undefined,
  };
  readonly #segments: Segment[] = [];
  #entry: DeviceTableEntry | undefined;
  #entryVersion = -1;

  constructor(rid: RequesterId, memory: GuestMemory, iommu: IommuParts) {
    this.rid = rid;
    this.#memory = memory;
    this.#iommu = iommu;
  }

  readInto(iova: Iova, into: Uint8Array): void {
    const segments = this.#resolve('read', iova, into.length);
    try {
      if (segments === 1) {
        const segment = this.#segments[0] as Segment;
        this.#memory.read(segment.address, segment.slot, into);
        return;
      }
      let done = 0;
      for (let i = 0; i < segments; i++) {
        const { address, slot, length } = this.#segments[i] as Segment;
        this.#memory.read(address, slot, into.subarray(done, done + length));
        done += length;
      }
    } catch (error) {
      into.fill(0);
      this.#failed(error, 'read', iova, into.length);
    }
  }

  writeFrom(iova: Iova, from: Uint8Array): void {
    const segments = this.#resolve('write', iova, from.length);
    try {
      let done = 0;
      for (let i = 0; i < segments; i++) {
        const { address, slot, length } = this.#segments[i] as Segment;
        const part = segments === 1 ? from : from.subarray(done, done + length);
        this.#memory.write(address, slot, part);
        done += length;
      }
    } catch (error) {
      this.#failed(error, 'write', iova, from.length);
    }
  }

  readBatch(accesses: readonly DmaAccess[], count: number): number {
    return this.#eachOf(accesses, count, (access) => this.readInto(access.iova, access.bytes));
  }

  writeBatch(accesses: readonly DmaAccess[], count: number): number {
    return this.#eachOf(accesses, count, (access) => this.writeFrom(access.iova, access.bytes));
  }

  #eachOf(accesses: readonly DmaAccess[], count: number, run: (access: DmaAccess) => void): number {
    let refused = 0;
    for (let i = 0; i < count; i++) {
      const access = accesses[i] as DmaAccess;
      access.abort = undefined;
      try {
        run(access);
      } catch (error) {
        if (!(error instanceof DmaAbort)) throw error;
        access.abort = error;
        refused++;
      }
    }
    return refused;
  }

  async read(iova: Iova, length: number): Promise<Uint8Array> {
    checkLength(length);
    const into = new Uint8Array(length);
    this.readInto(iova, into);
    return into;
  }

  async write(iova: Iova, bytes: Uint8Array): Promise<void> {
    this.writeFrom(iova, bytes);
  }

  /** Checks the whole access and fills the segments; answers how many there are. */
  #resolve(direction: DmaDirection, iova: Iova, length: number): number {
    checkLength(length);
    const { table, iotlb } = this.#iommu;
    if (this.#entryVersion !== table.version) {
      this.#entry = table.get(this.rid);
      this.#entryVersion = table.version;
    }
    const entry = this.#entry;
    if (entry === undefined) this.#refuse(direction, iova, length, 'no-device-table-entry');
    if (!this.busMaster) this.#refuse(direction, iova, length, 'bus-master-disabled');
    if (!allows(entry.rights, direction)) this.#refuseRights(direction, iova, length);

    const start = Number(iova);
    // Beyond 2^53 no domain maps anything, and a number could not say which byte is meant.
    if (!(start >= 0 && start + length <= Number.MAX_SAFE_INTEGER)) {
      this.#refuse(direction, iova, length, 'unmapped');
    }

    const translation = this.#translation;
    const { domain } = entry;
    let count = 0;
    for (let done = 0; done < length; ) {
      const fault = domain.cacheable
        ? iotlb.translate(domain, start + done, translation)
        : domain.translate(start + done, translation);
      if (fault !== undefined) this.#refuse(direction, iova, length, fault);
      if (!allows(translation.rights, direction)) this.#refuseRights(direction, iova, length);
      const slot = translation.slot ?? entry.slot;
      const slotFault = this.#slotFault(slot, entry);
      if (slotFault !== undefined) this.#refuse(direction, iova, length, slotFault);
      const part = Math.min(translation.length, length - done);
      if (part < 1) {
        throw new Error(`expected domain ${domain.id} to translate a byte or more, got ${part}`);
      }
      if (!this.#memory.permits(direction, translation.address, part)) {
        this.#refuse(direction, iova, length, 'outside-memory');
      }
      count = this.#addSegment(count, translation.address, part, slot);
      done += part;
    }
    return count;
  }

  /** Appends to the last segment where the bytes go on there, so that memory sees long runs. */
  #addSegment(count: number, address: Gpa, length: number, slot: KeySlot): number {
    const last = count > 0 ? this.#segments[count - 1] : undefined;
    if (last !== undefined && last.slot === slot && last.address + last.length === address) {
      last.length += length;
      return count;
    }
    let segment = this.#segments[count];
    if (segment === undefined) {
      segment = { address, length, slot: keySlot(0) };
      this.#segments.push(segment);
    }
    segment.address = address;
    segment.length = length;
    segment.slot = slot;
    return count + 1;
  }

  #slotFault(slot: KeySlot, entry: DeviceTableEntry): FaultReason | undefined {
    const { slots } = this.#iommu;
    const use = slots.use(slot);
    if (use === 'empty') return 'slot-empty';
    if (slots.vm(slot) !== entry.vm) return 'slot-of-another-vm';
    return use === 'active' ? undefined : 'slot-not-active';
  }

  #refuseRights(direction: DmaDirection, iova: Iova, length: number): never {
    const reason = direction === 'read' ? 'no-read-permission' : 'no-write-permission';
    return this.#refuse(direction, iova, length, reason);
  }

  #failed(error: unknown, direction: DmaDirection, iova: Iova, length: number): never {
    if (!(error instanceof MemoryError)) throw error;
    return this.#refuse(direction, iova, length, 'memory-failed');
  }

  #refuse(direction: DmaDirection, iova: Iova, length: number, reason: FaultReason): never {
    const entry = this.#entry;
    this.#iommu.faults.record({
      rid: this.rid,
      direction,
      iova,
      length,
      reason,
      domain: entry?.domain.id,
      vm: entry?.vm,
      slot: entry?.slot,
    });
    throw new DmaAbort(direction, iova, length, reason);
  }
}

function checkLength(length: number): void {
  if (!Number.isInteger(length) || length < 1 || length > DMA_MAX_BYTES) {
    throw new RangeError(
      `expected a DMA of 1 to ${DMA_MAX_BYTES} bytes, got ${length}: split longer ones`,
    );
  }
}
