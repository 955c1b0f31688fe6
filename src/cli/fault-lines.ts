import type { FaultLog } from '../iommu/fault-log.ts';
import { formatRequesterId } from '../pci/requester-id.ts';
import { BoundedLog } from '../vfio-user/bounded-log.ts';

/** Tells of refused DMAs, a line each and so many a second: a guest can have its devices make any number. */
export function tellFaults(faults: FaultLog, say: (line: string) => void): void {
  const log = new BoundedLog((line) => say(`IOMMU fault: ${line}`));
  faults.onFault(({ rid, direction, length, iova, reason }) =>
    log.log(
      `${direction} of ${length} bytes at 0x${iova.toString(16)} by ${formatRequesterId(rid)}: ${reason}`,
    ),
  );
}
