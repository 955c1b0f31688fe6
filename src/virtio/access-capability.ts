import { CapabilityId, capability } from '../pci/capability/capability.ts';
import type { PciCapability, PciEndpoint } from '../pci/endpoint.ts';
import {
  BAR_AT,
  LENGTH_AT,
  OFFSET_AT,
  STRUCTURE_BYTES,
  Structure,
} from './structure-capability.ts';

/** pci_cfg_data: a window of 4 bytes behind struct virtio_pci_cap. */
const DATA_AT = STRUCTURE_BYTES;
const BYTES = STRUCTURE_BYTES + 4;

/**
 * The PCI configuration access capability, virtio 1.2 section 4.1.4.9: a guest that cannot reach the
 * BARs, such as firmware before it has placed them, names a BAR, an offset and 1, 2 or 4 bytes, and
 * then each access to pci_cfg_data is one to there. What names no such place does nothing and reads
 * zeros.
 */
export function accessCapability(
  endpoint: Pick<PciEndpoint, 'bars' | 'readBar' | 'writeBar'>,
): PciCapability {
  const plain = capability(CapabilityId.vendorSpecific, BYTES, (values, writable) => {
    values.setUint8(2, BYTES);
    values.setUint8(3, Structure.pciAccess);
    writable.setUint8(BAR_AT, 0xff);
    writable.setUint32(OFFSET_AT, 0xffff_ffff);
    writable.setUint32(LENGTH_AT, 0xffff_ffff);
    writable.setUint32(DATA_AT, 0xffff_ffff);
  });
  const window = (live: Uint8Array) => {
    const values = new DataView(live.buffer, live.byteOffset, live.length);
    const bar = values.getUint8(BAR_AT);
    const offset = values.getUint32(OFFSET_AT, true);
    const length = values.getUint32(LENGTH_AT, true);
    const size = endpoint.bars[bar]?.size ?? 0;
    const fits = length === 1 || length === 2 || length === 4;
    if (!fits || offset % length !== 0 || offset + length > size) return undefined;
    return { bar, offset, data: live.subarray(DATA_AT, DATA_AT + length) };
  };
  return {
    ...plain,
    handlers: {
      refresh(live, _from, end) {
        if (end <= DATA_AT) return;
        const place = window(live);
        if (place === undefined) live.fill(0, DATA_AT);
        else endpoint.readBar(place.bar, place.offset, place.data);
      },
      written(live, _from, end) {
        if (end <= DATA_AT) return;
        const place = window(live);
        if (place !== undefined) endpoint.writeBar(place.bar, place.offset, place.data);
      },
    },
  };
}
