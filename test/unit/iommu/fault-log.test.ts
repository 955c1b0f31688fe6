import { expect, test } from 'vitest';
import { DEVICE_TABLE_ENTRIES, DeviceTable } from '../../../src/iommu/device-table.ts';
import { IdentityDomain } from '../../../src/iommu/domain.ts';
import { FaultLog, type FaultRecord } from '../../../src/iommu/fault-log.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { parseRequesterId, type RequesterId } from '../../../src/pci/requester-id.ts';

const fault = {
  rid: parseRequesterId('00:04.0'),
  direction: 'read',
  iova: 0,
  length: 4,
  reason: 'unmapped',
  domain: 1,
  vm: undefined,
  slot: undefined,
  generation: undefined,
} as const;

test('the log keeps the newest records, numbers all, and says what it dropped', () => {
  const log = new FaultLog(3);
  const heard: FaultRecord[] = [];
  const stop = log.onFault((record) => heard.push(record));
  for (let i = 0; i < 5; i++) log.record({ ...fault, iova: i });
  stop();
  log.record({ ...fault, iova: 5 });
  expect(log.records.map((record) => record.iova)).toEqual([3, 4, 5]);
  expect(log.records.map((record) => record.sequence)).toEqual([4, 5, 6]);
  expect({ total: log.total, dropped: log.dropped }).toEqual({ total: 6, dropped: 3 });
  expect(heard.map((record) => record.iova)).toEqual([0, 1, 2, 3, 4]);
  expect(log.since(5)).toHaveLength(1);
});

test('the device table is bounded, and a full one can still change', () => {
  const table = new DeviceTable();
  const entry = {
    domain: new IdentityDomain(1),
    vm: vmId(1),
    slot: keySlot(1),
    rights: 'read',
  } as const;
  for (let rid = 0; rid < DEVICE_TABLE_ENTRIES; rid++) table.set(rid as RequesterId, entry);
  expect(() => table.set(DEVICE_TABLE_ENTRIES as RequesterId, entry)).toThrow(RangeError);
  table.set(7 as RequesterId, { ...entry, rights: 'write' });
  expect(table.get(7 as RequesterId)?.rights).toBe('write');
});
