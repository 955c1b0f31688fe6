import type { DmaTamper } from '../iommu/dma-watch.ts';
import { newTranslation } from '../iommu/domain.ts';
import type { Iommu } from '../iommu/iommu.ts';
import type { IommuSegment } from '../iommu/iommu-segment.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import type { Instrument } from '../machine/instrument.ts';
import { type Gpa, gpa, MemoryError } from '../memory/guest-memory.ts';
import type { DmaDirection, FaultReason, Iova } from '../pci/dma-port.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { DramUnderTest } from './dram-faults.ts';
import type { IommuSite } from './iommu-faults.ts';

/** What a plan takes of a Machine. */
export interface FaultyMachine {
  readonly iommu: Iommu;
  /** Of its functions: its IOMMU may be others' as well. */
  readonly segment: number;
  /** The VM's own. */
  readonly slot: KeySlot;
  readonly functions: readonly { readonly memory: ErringMemory }[];
  readonly instruments: readonly Instrument[];
}

/** Guest memory whose bits can be flipped. */
export interface ErringMemory {
  permits(direction: DmaDirection, address: Gpa, length: number): boolean;
  flipBit(address: Gpa, slot: KeySlot, bit: number): void;
}

/**
 * The machine that a plan is installed in: its IOMMU, which asks about each DMA while a fault there is armed
 * and not otherwise, and its DRAM.
 */
export class MachineUnderTest implements DmaTamper, DramUnderTest {
  readonly #sites = new Map<RequesterId, IommuSite>();
  readonly #translation = newTranslation();
  #machine: FaultyMachine | undefined;
  #segment: IommuSegment | undefined;

  install(machine: FaultyMachine): void {
    if (this.#machine !== undefined) {
      throw new Error('expected a plan of faults for each machine, got one that has a machine');
    }
    this.#machine = machine;
    this.#segment = machine.iommu.segment(machine.segment);
    this.look();
  }

  watch(rid: RequesterId, site: IommuSite): void {
    this.#sites.set(rid, site);
    this.look();
  }

  unwatch(rid: RequesterId): void {
    this.#sites.delete(rid);
    this.look();
  }

  end(): void {
    this.#sites.clear();
    this.look();
    this.#machine = undefined;
    this.#segment = undefined;
  }

  /** After a change of what is armed: the IOMMU asks only while it must. */
  look(): void {
    const segment = this.#segment;
    if (segment === undefined) return;
    const wanted = [...this.#sites.values()].some((site) => site.wanted);
    if (wanted) segment.tamper = this;
    else if (segment.tamper === this) segment.tamper = undefined;
  }

  /** Tells those who watch the machine. */
  injected(rid: RequesterId, fault: string, detail: string): void {
    for (const one of this.#machine?.instruments ?? []) one.injected?.(rid, fault, detail);
  }

  refusal(
    rid: RequesterId,
    direction: DmaDirection,
    iova: Iova,
    length: number,
  ): FaultReason | undefined {
    return this.#sites.get(rid)?.refusal(direction, iova, length);
  }

  slot(rid: RequesterId, _direction: DmaDirection, _iova: Iova, slot: KeySlot): KeySlot {
    return this.#sites.get(rid)?.slot(slot) ?? slot;
  }

  gpaOf(rid: RequesterId, iova: Iova): Gpa | undefined {
    const address = Number(iova);
    const domain = this.#machine?.iommu.table.get(rid)?.domain;
    if (domain === undefined || !Number.isSafeInteger(address)) return undefined;
    const fault = domain.translate(address, this.#translation);
    return fault === undefined ? this.#translation.address : undefined;
  }

  flipBit(address: number, bit: number): void {
    if (!Number.isInteger(bit) || bit < 0 || bit > 7) {
      throw new RangeError(`expected a bit from 0 to 7, got ${bit}`);
    }
    const place = gpa(address);
    const machine = this.#machine;
    const found = machine?.functions.find(({ memory }) => memory.permits('read', place, 1));
    if (machine === undefined || found === undefined) {
      throw new MemoryError(
        `expected a machine with guest memory at 0x${place.toString(16)}, got none. A VMM maps it when it connects`,
      );
    }
    found.memory.flipBit(place, machine.slot, bit);
  }
}
