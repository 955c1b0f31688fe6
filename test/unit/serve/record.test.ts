import { describe, expect, test } from 'vitest';
import { IdentityDomain } from '../../../src/iommu/domain.ts';
import { IN_CLEAR, keySlot } from '../../../src/keys/key-slot.ts';
import type { SlotDescription, SlotState } from '../../../src/keys/slot-lifecycle.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import type { Iova } from '../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { parseMetricsAddress } from '../../../src/serve/record/metrics-server.ts';
import { bindingLine, dmaLine, keyLine, pagesLine } from '../../../src/serve/record/record-line.ts';

const now = new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 6));
const rid = parseRequesterId('0001:00:04.0');

function slotIn(state: SlotState, vm: number | undefined, generation = 1): SlotDescription {
  return {
    slot: keySlot(5),
    state,
    vm: vm === undefined ? undefined : vmId(vm),
    generation,
    keyBits: 256,
  };
}

describe('a key event is named by what it was and what it is:', () => {
  test.each<[string, SlotDescription, SlotDescription]>([
    ['loaded', slotIn('empty', undefined, 0), slotIn('loaded', undefined)],
    ['bound', slotIn('loaded', undefined), slotIn('loaded', 3)],
    ['activated', slotIn('loaded', 3), slotIn('active', 3)],
    ['rotation-begun', slotIn('active', 3), slotIn('rotating', 3, 2)],
    ['rotation-done', slotIn('rotating', 3, 2), slotIn('active', 3, 2)],
    ['revoked', slotIn('rotating', 3, 2), slotIn('revoked', 3, 2)],
    ['destroyed', slotIn('revoked', 3, 2), slotIn('empty', undefined, 2)],
  ])('%s', (reason, before, after) => {
    expect(keyLine(now, after, before)).toEqual({
      ...{ time: '2026-01-02T03:04:05.006Z', event: 'key', rid: null, slot: 5, reason },
      ...{ vm: after.vm ?? before.vm ?? null, generation: after.generation },
    });
  });

  test('what is said again is no event', () => {
    expect(keyLine(now, slotIn('revoked', 3), slotIn('revoked', 3))).toBe(undefined);
  });
});

describe('a binding', () => {
  const entry = {
    domain: new IdentityDomain(1),
    vm: vmId(2),
    rights: 'read',
    slot: keySlot(9),
  } as const;
  const line = (
    ...[after, before]: [Parameters<typeof bindingLine>[2], Parameters<typeof bindingLine>[3]]
  ) => bindingLine(now, rid, after, before, (slot) => (slot === IN_CLEAR ? null : 4));

  test('is recorded as it is made, changed and taken away', () => {
    const about = {
      time: '2026-01-02T03:04:05.006Z',
      event: 'binding',
      rid: '0001:00:04.0',
      vm: 2,
    };
    const now_ = { slotFrom: 'device-table', rights: 'read' };
    expect(line(entry, undefined)).toEqual({
      ...about,
      slot: 9,
      generation: 4,
      reason: 'bound',
      ...now_,
    });
    expect(line({ ...entry, slot: IN_CLEAR }, entry)).toEqual({
      ...about,
      slot: 'in-the-clear',
      generation: null,
      reason: 'changed',
      ...now_,
    });
    const { slot: _, ...rest } = entry;
    expect(line({ ...rest, slotFrom: 'translation' }, entry)).toMatchObject({
      slot: null,
      slotFrom: 'translation',
    });
    expect(line({ ...entry, rights: 'none' }, entry)).toMatchObject({
      reason: 'changed',
      rights: 'none',
    });
    expect(line(undefined, entry)).toEqual({
      ...about,
      slot: null,
      generation: null,
      reason: 'unbound',
    });
  });

  test('to the same slot with another key in it is one', () => {
    const first = { ...entry, generation: 3 };
    expect(line({ ...first, generation: 4 }, first)).toMatchObject({
      ...{ slot: 9, generation: 4, reason: 'changed' },
    });
    expect(line({ ...first, domain: new IdentityDomain(2) }, first)).toBe(undefined);
  });

  test('to another domain alone is none', () => {
    expect(line({ ...entry, domain: new IdentityDomain(2) }, entry)).toBe(undefined);
    expect(line({ ...entry, slotFrom: 'device-table' }, entry)).toBe(undefined);
  });
});

test('pages that have become shared or private are an event of the VM’s own key', () => {
  const about = { vm: vmId(2), slot: keySlot(9), range: { address: gpa(0x20_0000), bytes: 65536 } };
  const time = '2026-01-02T03:04:05.006Z';
  const where = { event: 'pages', rid: null, vm: 2, slot: 9, generation: 4 };
  expect(pagesLine(now, { ...about, to: 'shared', kept: true }, 4)).toEqual({
    ...{ time, ...where, reason: 'shared', address: '0x200000', bytes: 65536, kept: true },
  });
  expect(pagesLine(now, { ...about, to: 'private', kept: false }, 4)).toEqual({
    ...{ time, ...where, reason: 'unshared', address: '0x200000', bytes: 65536, kept: false },
  });
});

test.each<[Iova, string]>([
  [0x1000, '0x1000'],
  [2n ** 64n - 1n, '0xffffffffffffffff'],
  [-1, '0xffffffffffffffff'],
  [0.5, '0.5'],
])('a refused DMA at %s, whatever the device made of its address', (iova, shown) => {
  const where = { rid, direction: 'write', iova, length: 4, domain: undefined } as const;
  const whose = { vm: undefined, slot: undefined, generation: undefined };
  const reason = 'no-device-table-entry';
  const fault = {
    refused: true,
    sequence: 3,
    time: now.getTime(),
    reason,
    ...where,
    ...whose,
  } as const;
  expect(dmaLine(fault)).toEqual({
    ...{ time: '2026-01-02T03:04:05.006Z', event: 'refused', rid: '0001:00:04.0', vm: null },
    ...{ slot: null, generation: null, reason, sequence: 3, direction: 'write', iova: shown },
    ...{ length: 4, domain: null },
  });
  expect(dmaLine({ ...fault, refused: false })).toMatchObject({ event: 'mismatched' });
});

test('metrics are served on loopback alone', () => {
  expect(parseMetricsAddress('127.0.0.1:9273')).toEqual({ host: '127.0.0.1', port: 9273 });
  expect(parseMetricsAddress('[::1]:0')).toEqual({ host: '::1', port: 0 });
  for (const text of [
    '0.0.0.0:9273',
    ':9273',
    'localhost:1',
    '127.0.0.1',
    '127.0.0.1:70000',
    '127.0.0.1.evil:1',
  ]) {
    expect(() => parseMetricsAddress(text)).toThrow(/loopback/);
  }
});
