import { expect, test } from 'vitest';
import { tellFaults } from '../../../src/cli/fault-lines.ts';
import { FaultLog } from '../../../src/iommu/fault-log.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';

const fault = {
  rid: parseRequesterId('00:04.0'),
  direction: 'read',
  iova: 0x1000,
  length: 4,
  reason: 'unmapped',
  domain: 1,
  vm: undefined,
  slot: undefined,
  generation: undefined,
} as const;

test('a slot is told with its generation', () => {
  const faults = new FaultLog();
  const lines: string[] = [];
  tellFaults(faults, (line) => lines.push(line));
  const slot = { slot: keySlot(5), generation: 2 };
  faults.record({ ...fault, ...slot, reason: 'slot-of-another-generation' });
  expect(lines).toEqual([
    'IOMMU fault: read of 4 bytes at 0x1000 by 0000:00:04.0: slot-of-another-generation (slot 5, generation 2)',
  ]);
});

test('a refused DMA is told in a line, and a flood of them in a bounded number', () => {
  const faults = new FaultLog();
  const lines: string[] = [];
  tellFaults(faults, (line) => lines.push(line));
  for (let n = 0; n < 10_000; n++) faults.record(fault);
  expect(lines[0]).toBe('IOMMU fault: read of 4 bytes at 0x1000 by 0000:00:04.0: unmapped');
  // 20 in each second that this took, and a line of how many were left out.
  expect(lines.length).toBeLessThan(1000);
  expect(faults.total).toBe(10_000);
});
