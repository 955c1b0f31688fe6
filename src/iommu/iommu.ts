import type { GuestMemory } from '../memory/guest-memory.ts';
import { type RequesterId, segmentOf } from '../pci/requester-id.ts';
import { DeviceTable } from './device-table.ts';
import type { Domain } from './domain.ts';
import { FaultLog } from './fault-log.ts';
import { HostDomain } from './host-domain.ts';
import { IommuDmaPort } from './iommu-dma-port.ts';
import { IommuSegment, type IommuTables } from './iommu-segment.ts';
import { Iotlb } from './iotlb.ts';
import type { SlotDirectory } from './slot-directory.ts';

/**
 * The shim between functions and guest memory. It knows requester IDs, domains and slots; it knows
 * no QEMU, no key and no page of memory. Everything is blocked until the device table says else.
 */
export class Iommu implements IommuTables {
  readonly table = new DeviceTable();
  readonly iotlb = new Iotlb();
  readonly faults: FaultLog;
  readonly slots: SlotDirectory;
  readonly #segments = new Map<number, IommuSegment>();
  #nextDomain = 1;

  constructor(slots: SlotDirectory, faults = new FaultLog()) {
    this.slots = slots;
    this.faults = faults;
  }

  /** A domain's number in faults and in the IOTLB; never given twice. */
  newDomainId(): number {
    return this.#nextDomain++;
  }

  /** A domain that the host fills with translations, which may name key slots. */
  hostDomain(): HostDomain {
    return new HostDomain(this.newDomainId(), this.iotlb);
  }

  /** The port of one function into one VM's memory, to be given to that function alone. */
  port(rid: RequesterId, memory: GuestMemory): IommuDmaPort {
    return new IommuDmaPort(rid, memory, this.segment(segmentOf(rid)));
  }

  /** A PCI segment group: its ports' DMA is watched or spoilt there, whenever they were made. */
  segment(number: number): IommuSegment {
    let segment = this.#segments.get(number);
    if (segment === undefined) {
      segment = new IommuSegment(this);
      this.#segments.set(number, segment);
    }
    return segment;
  }

  /** A segment is nobody's any more: to be called when its VM has gone. */
  forgetSegment(number: number): void {
    this.#segments.delete(number);
  }

  /**
   * To be called after a domain lost or changed a mapping and before the guest hears of it. When it
   * returns no DMA uses the old translation: DMA is synchronous on this thread, a batch of them too
   * (a port is done with memory when its call returns), so none is in flight now, and the next one
   * misses the IOTLB.
   */
  invalidate(domain: Domain, iova: number, length: number): void {
    this.iotlb.invalidate(domain, iova, length);
  }
}
