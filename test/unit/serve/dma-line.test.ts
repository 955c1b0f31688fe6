import { expect, test } from 'vitest';
import { FaultLog } from '../../../src/iommu/fault-log.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { dmaLine } from '../../../src/serve/record/record-line.ts';

test.each([
  ['slot-of-another-vm', 'refused'],
  ['memory-failed', 'refused'],
  ['page-is-shared', 'mismatched'],
  ['page-is-private', 'mismatched'],
] as const)('a DMA with %s is recorded as %s', (reason, event) => {
  const fault = new FaultLog().record({
    ...{ rid: parseRequesterId('0002:00:05.0'), direction: 'write', iova: 2n ** 63n, length: 5 },
    ...{ reason, domain: 3, vm: vmId(3), slot: keySlot(9), generation: 2 },
  });
  expect(dmaLine(fault)).toEqual({
    ...{ time: new Date(fault.time).toISOString(), event, rid: '0002:00:05.0', vm: 3, slot: 9 },
    ...{ generation: 2, reason, sequence: 1, direction: 'write', iova: '0x8000000000000000' },
    ...{ length: 5, domain: 3 },
  });
});
