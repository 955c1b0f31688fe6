/** A refused DMA as the driver hears of it on the event queue (virtio 1.2 §5.13.6.9). */
import type { FaultRecord } from '../../iommu/fault-log.ts';
import type { FaultReason } from '../../pci/dma-port.ts';

export const FAULT_REPORT_BYTES = 24;

const REASON_UNKNOWN = 0;
const REASON_DOMAIN = 1;
const REASON_MAPPING = 2;

const FLAG_READ = 1;
const FLAG_WRITE = 2;
const FLAG_ADDRESS = 0x100;

/** The reason on the wire; undefined where the DMA never came to the IOMMU, or was done. */
function reportedReason(reason: FaultReason): number | undefined {
  switch (reason) {
    case 'blocked-domain':
      return REASON_DOMAIN;
    case 'unmapped':
    case 'no-read-permission':
    case 'no-write-permission':
      return REASON_MAPPING;
    case 'bus-master-disabled':
    case 'page-is-shared':
    case 'page-is-private':
      return undefined;
    default:
      return REASON_UNKNOWN;
  }
}

/** struct virtio_iommu_fault; undefined for what is none of the driver's business. */
export function faultReport(fault: FaultRecord): Uint8Array | undefined {
  const reason = reportedReason(fault.reason);
  if (reason === undefined) return undefined;
  const report = new Uint8Array(FAULT_REPORT_BYTES);
  const view = new DataView(report.buffer);
  view.setUint8(0, reason);
  view.setUint32(4, FLAG_ADDRESS | (fault.direction === 'read' ? FLAG_READ : FLAG_WRITE), true);
  view.setUint32(8, fault.rid, true);
  // The device's 64 bits, whatever its author's arithmetic made of them.
  view.setBigUint64(16, BigInt.asUintN(64, BigInt(fault.iova)), true);
  return report;
}
