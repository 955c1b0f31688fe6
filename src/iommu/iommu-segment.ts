import type { DeviceTable } from './device-table.ts';
import type { DmaObserver, DmaTamper } from './dma-watch.ts';
import type { FaultLog } from './fault-log.ts';
import type { Iotlb } from './iotlb.ts';
import type { SlotDirectory } from './slot-directory.ts';

/** What the IOMMU's segments have in common. */
export interface IommuTables {
  readonly table: DeviceTable;
  readonly iotlb: Iotlb;
  readonly slots: SlotDirectory;
  readonly faults: FaultLog;
}

/**
 * The IOMMU as the functions of one PCI segment have it, which is that of one VM: with the tables of all, and with
 * those who watch or spoil this segment's DMA. The others' do not meet them.
 */
export class IommuSegment implements IommuTables {
  readonly table: DeviceTable;
  readonly iotlb: Iotlb;
  readonly slots: SlotDirectory;
  readonly faults: FaultLog;
  /** Sees every DMA of the segment that is done; a trace. */
  observer: DmaObserver | undefined;
  /** Spoils DMA of the segment; faults on demand. */
  tamper: DmaTamper | undefined;

  constructor({ table, iotlb, slots, faults }: IommuTables) {
    this.table = table;
    this.iotlb = iotlb;
    this.slots = slots;
    this.faults = faults;
  }
}
