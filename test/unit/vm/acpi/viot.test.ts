import { describe, expect, test } from 'vitest';
import { parseRequesterId, type RequesterId } from '../../../../src/pci/requester-id.ts';
import { viotTable } from '../../../../src/vm/acpi/viot.ts';

const rid = parseRequesterId;

/** As Linux reads it: drivers/acpi/viot.c, structures of include/acpi/actbl3.h. */
function parse(bytes: Uint8Array) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const u16 = (at: number) => view.getUint16(at, true);
  const u32 = (at: number) => view.getUint32(at, true);
  const signature = String.fromCharCode(...bytes.subarray(0, 4));
  expect(u32(4)).toBe(bytes.length);
  expect(bytes.reduce((sum, byte) => sum + byte, 0) & 0xff).toBe(0);
  const nodes = [];
  let at = u16(38);
  for (let left = u16(36); left > 0; left--) {
    const [type, length] = [bytes[at], u16(at + 2)];
    expect(at + length).toBeLessThanOrEqual(bytes.length);
    nodes.push(
      type === 3
        ? { at, type, segment: u16(at + 4), bdf: u16(at + 6) }
        : {
            at,
            type,
            endpointStart: u32(at + 4),
            segments: [u16(at + 8), u16(at + 10)],
            bdfs: [u16(at + 12), u16(at + 14)],
            outputNode: u16(at + 16),
          },
    );
    at += length;
  }
  expect(at).toBe(bytes.length);
  return { signature, nodes };
}

test('names the IOMMU and, in runs, each function behind it', () => {
  const endpoints = ['00:05.1', '00:04.0', '00:05.0', '00:1c.0'].map(rid);
  const { signature, nodes } = parse(viotTable(rid('00:03.0'), endpoints));
  expect(signature).toBe('VIOT');
  const outputNode = 48;
  const range = (first: string, last: string) => ({
    type: 1,
    endpointStart: rid(first),
    segments: [0, 0],
    bdfs: [rid(first), rid(last)],
    outputNode,
  });
  expect(nodes).toMatchObject([
    { at: outputNode, type: 3, segment: 0, bdf: 0x18 },
    range('00:04.0', '00:04.0'),
    range('00:05.0', '00:05.1'),
    range('00:1c.0', '00:1c.0'),
  ]);
});

/** The endpoint ID that Linux gives to a function, or undefined where none names it. */
function endpointOf(table: Uint8Array, function_: RequesterId): number | undefined {
  const [segment, bdf] = [Math.floor(function_ / 0x10000), function_ & 0xffff];
  for (const node of parse(table).nodes) {
    if (node.segments === undefined) continue;
    const [firstSegment = 0, lastSegment = 0] = node.segments;
    const [firstBdf = 0, lastBdf = 0] = node.bdfs;
    if (segment < firstSegment || segment > lastSegment) continue;
    if (bdf < firstBdf || bdf > lastBdf) continue;
    return ((segment - firstSegment) << 16) + bdf - firstBdf + node.endpointStart;
  }
  return undefined;
}

describe('a function', () => {
  const iommu = rid('00:03.0');
  const endpoints = ['00:02.7', '00:03.1', '00:03.2', '00:1f.7', '0001:00:00.0', '0001:ff:1f.7'];
  const table = viotTable(iommu, endpoints.map(rid));

  test.each(endpoints)('%s has its requester ID as endpoint ID', (name) => {
    expect(endpointOf(table, rid(name))).toBe(rid(name));
  });

  test.each(['00:03.0', '00:02.6', '00:03.3', '00:1e.0', '01:00.0', '0001:00:00.1'])(
    '%s, which is not behind it, is named by no node',
    (name) => {
      expect(endpointOf(table, rid(name))).toBe(undefined);
    },
  );
});

test.each([
  [1, '00:04.0', '0001:00:04.0'],
  [0xfffe, '00:1c.7', 'fffe:00:1c.7'],
])(
  'on host segment %i, %s of the guest has the host’s requester ID as endpoint ID',
  (segment, address, rid_) => {
    const table = viotTable(rid('00:03.0'), [rid(address)], segment);
    expect(endpointOf(table, rid(address))).toBe(rid(rid_));
    expect(parse(table).nodes[0]).toMatchObject({ segment: 0, bdf: 0x18 });
  },
);

test('the IOMMU cannot stand behind itself', () => {
  expect(() => viotTable(rid('00:03.0'), [rid('00:03.0')])).toThrow(RangeError);
});
