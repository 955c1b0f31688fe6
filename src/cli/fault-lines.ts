import type { FaultLog, FaultRecord } from '../iommu/fault-log.ts';
import { formatRequesterId } from '../pci/requester-id.ts';
import { BoundedLog } from '../vfio-user/bounded-log.ts';

type Where = Pick<FaultRecord, 'slot' | 'generation'>;

/** Tells of refused DMAs, a line each and so many a second: a guest can have its devices make any number. */
export function tellFaults(faults: FaultLog, say: (line: string) => void): void {
  const log = new BoundedLog((line) => say(`IOMMU fault: ${line}`));
  faults.onFault(({ rid, direction, length, iova, reason, ...where }) =>
    log.log(
      `${direction} of ${length} bytes at 0x${iova.toString(16)} by ${formatRequesterId(rid)}: ${reason}${key(where)}`,
    ),
  );
}

function key({ slot, generation }: Where): string {
  return slot === undefined ? '' : ` (slot ${slot}, generation ${generation ?? '?'})`;
}
