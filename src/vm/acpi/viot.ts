import { formatRequesterId, type RequesterId, segmentOf } from '../../pci/requester-id.ts';

/**
 * The Virtual I/O Translation table: which functions stand behind which virtio-iommu (ACPI 6.5
 * §5.2.34; field names as in Linux's include/acpi/actbl3.h). Endpoint IDs are requester IDs as the host has
 * them: a guest sees its functions on segment 0, the host has a segment for each VM.
 */

const HEADER_BYTES = 36;
/** The header, node_count, node_offset and 8 reserved bytes. */
const FIRST_NODE = HEADER_BYTES + 12;

const NODE_PCI_RANGE = 1;
const PCI_RANGE_BYTES = 24;
const NODE_VIRTIO_IOMMU_PCI = 3;
const VIRTIO_IOMMU_PCI_BYTES = 16;

/**
 * The whole table, header and checksum included. Each run of neighbouring endpoints is a node, so
 * that no function is named that is not among them.
 *
 * @param iommu the virtio-iommu's own function, which never is an endpoint of its own
 * @param hostSegment what comes before the guest's requester IDs in endpoint IDs
 * @throws RangeError where it is among them
 */
export function viotTable(
  iommu: RequesterId,
  endpoints: readonly RequesterId[],
  hostSegment = 0,
): Uint8Array {
  if (endpoints.includes(iommu)) {
    throw new RangeError(
      `expected endpoints other than the IOMMU, got ${formatRequesterId(iommu)} among them`,
    );
  }
  const ranges = runs(endpoints);
  const bytes = new Uint8Array(
    FIRST_NODE + VIRTIO_IOMMU_PCI_BYTES + ranges.length * PCI_RANGE_BYTES,
  );
  const view = new DataView(bytes.buffer);
  const u16 = (at: number, value: number) => view.setUint16(at, value, true);

  text(bytes, 0, 'VIOT');
  view.setUint32(4, bytes.length, true);
  text(bytes, 10, 'SEALBU'); // OEM ID
  text(bytes, 16, 'SEALBUS '); // OEM table ID
  view.setUint32(24, 1, true); // OEM revision
  text(bytes, 28, 'SEAL'); // creator ID
  view.setUint32(32, 1, true); // creator revision
  u16(36, 1 + ranges.length); // node_count
  u16(38, FIRST_NODE); // node_offset

  bytes[FIRST_NODE] = NODE_VIRTIO_IOMMU_PCI;
  u16(FIRST_NODE + 2, VIRTIO_IOMMU_PCI_BYTES);
  u16(FIRST_NODE + 4, segmentOf(iommu));
  u16(FIRST_NODE + 6, iommu & 0xffff); // bdf

  let node = FIRST_NODE + VIRTIO_IOMMU_PCI_BYTES;
  for (const { first, last } of ranges) {
    bytes[node] = NODE_PCI_RANGE;
    u16(node + 2, PCI_RANGE_BYTES);
    view.setUint32(node + 4, hostSegment * 0x10000 + first, true); // endpoint_start
    u16(node + 8, segmentOf(first)); // segment_start
    u16(node + 10, segmentOf(last)); // segment_end
    u16(node + 12, first & 0xffff); // bdf_start
    u16(node + 14, last & 0xffff); // bdf_end
    u16(node + 16, FIRST_NODE); // output_node
    node += PCI_RANGE_BYTES;
  }

  // The whole table adds up to 0 (ACPI 6.5 §5.2.6).
  bytes[9] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return bytes;
}

interface Run {
  readonly first: RequesterId;
  last: RequesterId;
}

/** A range of several segments would mean all their buses: a run ends with its segment. */
function runs(endpoints: readonly RequesterId[]): Run[] {
  const found: Run[] = [];
  for (const rid of [...new Set(endpoints)].sort((a, b) => a - b)) {
    const run = found.at(-1);
    if (run !== undefined && run.last + 1 === rid && segmentOf(run.last) === segmentOf(rid)) {
      run.last = rid;
    } else {
      found.push({ first: rid, last: rid });
    }
  }
  return found;
}

function text(bytes: Uint8Array, at: number, words: string): void {
  bytes.set(new TextEncoder().encode(words), at);
}
