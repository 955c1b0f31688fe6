import { expect, test } from 'vitest';
import { faultReport } from '../../../../src/devices/iommu/fault-report.ts';
import type { FaultRecord } from '../../../../src/iommu/fault-log.ts';
import type { FaultReason, Iova } from '../../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../../src/pci/requester-id.ts';

function fault(reason: FaultReason, direction: 'read' | 'write', iova: Iova): FaultRecord {
  const rid = parseRequesterId('0001:00:04.0');
  const rest = {
    sequence: 1,
    time: 0,
    domain: 1,
    vm: undefined,
    slot: undefined,
    generation: undefined,
    length: 4,
    refused: true,
  };
  return { rid, reason, direction, iova, ...rest };
}

/** struct virtio_iommu_fault, virtio 1.2 §5.13.6.9. */
function fields(report: Uint8Array | undefined) {
  const view = new DataView((report ?? new Uint8Array()).buffer);
  return {
    reason: view.getUint8(0),
    reserved: [view.getUint8(1), view.getUint8(2), view.getUint8(3), view.getUint32(12, true)],
    flags: view.getUint32(4, true),
    endpoint: view.getUint32(8, true),
    address: view.getBigUint64(16, true),
  };
}

test.each<[FaultReason, number]>([
  ['blocked-domain', 1],
  ['unmapped', 2],
  ['no-read-permission', 2],
  ['no-write-permission', 2],
  ['outside-memory', 0],
  ['slot-not-active', 0],
])('%s is reason %i', (reason, number) => {
  const said = fields(faultReport(fault(reason, 'read', 0x1234)));
  expect(said.reason).toBe(number);
  expect(said.reserved).toEqual([0, 0, 0, 0]);
});

test.each<['read' | 'write', number, Iova, bigint]>([
  ['read', 0x101, 0x1000, 0x1000n],
  ['write', 0x102, 2n ** 64n - 1n, 2n ** 64n - 1n],
  ['write', 0x102, -1, 2n ** 64n - 1n],
  ['read', 0x101, 2 ** 53 - 1, 2n ** 53n - 1n],
])('a %s says flags 0x%x, who, and where', (direction, flags, iova, address) => {
  const said = fields(faultReport(fault('unmapped', direction, iova)));
  expect(said).toMatchObject({ flags, address, endpoint: 0x10020 });
});

test('what the bus refused is no fault of the IOMMU', () => {
  expect(faultReport(fault('bus-master-disabled', 'read', 0))).toBe(undefined);
});
