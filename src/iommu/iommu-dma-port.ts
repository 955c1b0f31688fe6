import { type AccessSlot, isInClear } from '../keys/key-slot.ts';
import { type Gpa, type GuestMemory, MemoryError } from '../memory/guest-memory.ts';
import {
  DmaAbort,
  type DmaAccess,
  type DmaDirection,
  type DmaPort,
  type FaultReason,
  type Iova,
} from '../pci/dma-port.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { DeviceTableEntry } from './device-table.ts';
import { checkLength, DMA_MAX_BYTES } from './dma-length.ts';
import {
  assignBytes,
  crossingReason,
  type DmaSegment,
  newSegment,
  releaseBytes,
} from './dma-segment.ts';
import { allows, newTranslation } from './domain.ts';
import type { IommuSegment } from './iommu-segment.ts';
import { slotFault } from './slot-check.ts';

/** So many segments of a batch go to memory at once, and those of the access that reaches it. */
const SEGMENTS_A_GO = 256;

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

  readonly #iommu: IommuSegment;
  readonly #memory: GuestMemory;
  readonly #translation = newTranslation();
  readonly #segments: DmaSegment[] = [];
  #entry: DeviceTableEntry | undefined;
  #entryVersion = -1;
  /** Segments filled in since it was 0 that meet pages of the other kind. */
  #crossings = 0;

  /** @param iommu as the rid's segment has it */
  constructor(rid: RequesterId, memory: GuestMemory, iommu: IommuSegment) {
    this.rid = rid;
    this.#memory = memory;
    this.#iommu = iommu;
  }

  readInto(iova: Iova, into: Uint8Array): void {
    checkLength(into.length);
    const segments = this.#resolve('read', iova, into.length, 0);
    try {
      const first = this.#segments[0] as DmaSegment;
      if (segments === 1) this.#memory.read(first.address, first.slot, into);
      else this.#scattered('read', into, segments);
    } catch (error) {
      into.fill(0);
      this.#failed(error, 'read', iova, into.length);
    }
    if (this.#crossings > 0) this.#crossed('read', iova, into.length, 0, segments);
    if (this.#iommu.observer !== undefined) this.#observed('read', iova, into, 0, segments);
  }

  writeFrom(iova: Iova, from: Uint8Array): void {
    checkLength(from.length);
    const segments = this.#resolve('write', iova, from.length, 0);
    try {
      const first = this.#segments[0] as DmaSegment;
      if (segments === 1) this.#memory.write(first.address, first.slot, from);
      else this.#scattered('write', from, segments);
    } catch (error) {
      this.#failed(error, 'write', iova, from.length);
    }
    if (this.#crossings > 0) this.#crossed('write', iova, from.length, 0, segments);
    if (this.#iommu.observer !== undefined) this.#observed('write', iova, from, 0, segments);
  }

  readBatch(accesses: readonly DmaAccess[], count: number): number {
    return this.#batch('read', accesses, count);
  }

  writeBatch(accesses: readonly DmaAccess[], count: number): number {
    return this.#batch('write', accesses, count);
  }

  #batch(direction: DmaDirection, accesses: readonly DmaAccess[], count: number): number {
    // A length that no access may have is the device's mistake: found before any byte moves.
    for (let i = 0; i < count; i++) checkLength((accesses[i] as DmaAccess).bytes.length);
    let refused = 0;
    let segments = 0;
    for (let i = 0; i < count; i++) {
      const access = accesses[i] as DmaAccess;
      access.abort = undefined;
      try {
        const end = this.#resolve(direction, access.iova, access.bytes.length, segments);
        assignBytes(this.#segments, access.bytes, segments, end, access);
        segments = end;
      } catch (error) {
        if (!(error instanceof DmaAbort)) throw error;
        access.abort = error;
        refused++;
      }
      if (segments >= SEGMENTS_A_GO) {
        refused += this.#go(direction, segments);
        segments = 0;
      }
    }
    return segments === 0 ? refused : refused + this.#go(direction, segments);
  }

  /** Moves the bytes of the first segments. @returns how many accesses memory failed. */
  #go(direction: DmaDirection, segments: number): number {
    this.#move(direction, segments);
    let failed = 0;
    for (let i = 0; i < segments; i++) {
      const segment = this.#segments[i] as DmaSegment;
      const { access } = segment;
      if (segment.failure !== undefined && access !== undefined && access.abort === undefined) {
        const { iova, bytes } = access;
        if (direction === 'read') bytes.fill(0);
        access.abort = this.#aborted(direction, iova, bytes.length, 'memory-failed', segment.slot);
        failed++;
      }
    }
    if (this.#iommu.observer !== undefined || this.#crossings > 0) {
      this.#eachDone(segments, direction);
    }
    for (let i = 0; i < segments; i++) releaseBytes(this.#segments[i] as DmaSegment);
    return failed;
  }

  /** The segments of one access stand together, and all of them are of one go. */
  #eachDone(segments: number, direction: DmaDirection): void {
    for (let first = 0; first < segments; ) {
      const { access } = this.#segments[first] as DmaSegment;
      let end = first + 1;
      while (end < segments && this.#segments[end]?.access === access) end++;
      if (access !== undefined && access.abort === undefined) {
        const { iova, bytes } = access;
        if (this.#crossings > 0) this.#crossed(direction, iova, bytes.length, first, end);
        if (this.#iommu.observer !== undefined) {
          this.#observed(direction, iova, bytes, first, end);
        }
      }
      first = end;
    }
  }

  /** Records an access that was done, where one of its segments met pages of the other kind. */
  #crossed(direction: DmaDirection, iova: Iova, length: number, first: number, end: number): void {
    for (let i = first; i < end; i++) {
      const segment = this.#segments[i] as DmaSegment;
      if (!segment.crosses) continue;
      this.#record(direction, iova, length, crossingReason(segment), segment.slot);
      return;
    }
  }

  #observed(
    direction: DmaDirection,
    iova: Iova,
    bytes: Uint8Array,
    first: number,
    end: number,
  ): void {
    const { rid } = this;
    this.#iommu.observer?.done({ rid, direction, iova, bytes, pieces: this.#segments, first, end });
  }

  /** One access that falls into several segments. @throws MemoryError */
  #scattered(direction: DmaDirection, bytes: Uint8Array, segments: number): void {
    assignBytes(this.#segments, bytes, 0, segments, undefined);
    this.#move(direction, segments);
    let failure: MemoryError | undefined;
    for (let i = 0; i < segments; i++) {
      const segment = this.#segments[i] as DmaSegment;
      failure ??= segment.failure;
      releaseBytes(segment);
    }
    if (failure !== undefined) throw failure;
  }

  #move(direction: DmaDirection, segments: number): void {
    if (direction === 'read') this.#memory.readBatch(this.#segments, segments);
    else this.#memory.writeBatch(this.#segments, segments);
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

  /** Checks the whole access and fills in segments from `first` on; answers where they end. */
  #resolve(direction: DmaDirection, iova: Iova, length: number, first: number): number {
    const { table, iotlb, slots } = this.#iommu;
    if (this.#entryVersion !== table.version) {
      this.#entry = table.get(this.rid);
      this.#entryVersion = table.version;
    }
    const { tamper } = this.#iommu;
    if (tamper !== undefined) {
      const spoilt = tamper.refusal(this.rid, direction, iova, length);
      if (spoilt !== undefined) this.#refuse(direction, iova, length, spoilt);
    }
    if (first === 0) this.#crossings = 0;
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
    let end = first;
    for (let done = 0; done < length; ) {
      const fault = domain.cacheable
        ? iotlb.translate(domain, start + done, translation)
        : domain.translate(start + done, translation);
      if (fault !== undefined) this.#refuse(direction, iova, length, fault);
      if (!allows(translation.rights, direction)) this.#refuseRights(direction, iova, length);
      const byTable = entry.slotFrom !== 'translation';
      // Nearly always the entry has the slot, and the translation none.
      let slot =
        byTable && translation.slot === undefined
          ? entry.slot
          : this.#slotOf(entry, direction, iova, length);
      if (!isInClear(slot)) {
        let bound = byTable ? entry.generation : translation.generation;
        if (tamper !== undefined) {
          const other = tamper.slot(this.rid, direction, iova, slot);
          if (other !== slot) bound = undefined;
          slot = other;
        }
        const refusal = slotFault(slots, slot, entry.vm, bound);
        if (refusal !== undefined) this.#refuse(direction, iova, length, refusal, slot);
      }
      const part = Math.min(translation.length, length - done);
      if (part < 1) {
        throw new Error(`expected domain ${domain.id} to translate a byte or more, got ${part}`);
      }
      if (!this.#memory.permits(direction, translation.address, part)) {
        this.#refuse(direction, iova, length, 'outside-memory', slot);
      }
      end = this.#addSegment(first, end, translation.address, part, slot);
      done += part;
    }
    return end;
  }

  /** Appends to the access's last segment where the bytes go on there, so that memory sees long runs. */
  #addSegment(first: number, end: number, address: Gpa, length: number, slot: AccessSlot): number {
    // Plain memory has no private pages to be crossed with.
    const crosses = this.#memory.mode === 'sealed' && this.#memory.crosses(slot, address, length);
    if (crosses) this.#crossings++;
    const last = end > first ? this.#segments[end - 1] : undefined;
    if (last !== undefined && last.slot === slot && last.address + last.length === address) {
      last.length += length;
      last.crosses ||= crosses;
      return end;
    }
    let segment = this.#segments[end];
    if (segment === undefined) {
      segment = newSegment(address, slot, length);
      this.#segments.push(segment);
    }
    segment.address = address;
    segment.length = length;
    segment.slot = slot;
    segment.crosses = crosses;
    return end + 1;
  }

  /**
   * The slot of what was translated last. One source holds for a function, and only that: a slot that the
   * other names is somebody's mistake, and to take either would be to guess whose.
   */
  #slotOf(
    entry: DeviceTableEntry,
    direction: DmaDirection,
    iova: Iova,
    length: number,
  ): AccessSlot {
    const { slot } = this.#translation;
    if (slot !== undefined && isInClear(slot)) return slot;
    if (entry.slotFrom === 'translation') {
      return slot ?? this.#refuse(direction, iova, length, 'no-slot-in-translation');
    }
    if (slot === undefined) return entry.slot;
    return this.#refuse(direction, iova, length, 'unasked-slot-in-translation', slot);
  }

  #refuseRights(direction: DmaDirection, iova: Iova, length: number): never {
    const reason = direction === 'read' ? 'no-read-permission' : 'no-write-permission';
    return this.#refuse(direction, iova, length, reason);
  }

  #failed(error: unknown, direction: DmaDirection, iova: Iova, length: number): never {
    if (!(error instanceof MemoryError)) throw error;
    return this.#refuse(direction, iova, length, 'memory-failed', this.#segments[0]?.slot);
  }

  #refuse(
    direction: DmaDirection,
    iova: Iova,
    length: number,
    reason: FaultReason,
    slot?: AccessSlot,
  ): never {
    throw this.#aborted(direction, iova, length, reason, slot);
  }

  /**
   * Records the fault; answers what the device may know of it.
   * @param slot where the access came so far that one was resolved
   */
  #aborted(
    direction: DmaDirection,
    iova: Iova,
    length: number,
    reason: FaultReason,
    slot = this.#entry?.slot,
  ): DmaAbort {
    this.#record(direction, iova, length, reason, slot);
    return new DmaAbort(direction, iova, length, reason);
  }

  #record(
    direction: DmaDirection,
    iova: Iova,
    length: number,
    reason: FaultReason,
    through: AccessSlot | undefined,
  ): void {
    const entry = this.#entry;
    const slot = through === undefined || isInClear(through) ? undefined : through;
    this.#iommu.faults.record({
      rid: this.rid,
      direction,
      iova,
      length,
      reason,
      domain: entry?.domain.id,
      vm: entry?.vm,
      slot,
      generation: slot === undefined ? undefined : this.#iommu.slots.generation(slot),
    });
  }
}
