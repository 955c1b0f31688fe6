import { CapabilityId, capability } from '../pci/capability/capability.ts';
import type { PciCapability } from '../pci/endpoint.ts';

/** What a capability of virtio over PCI points to, virtio 1.2 section 4.1.4. */
export const Structure = { common: 1, notify: 2, isr: 3, device: 4, pciAccess: 5 } as const;

/** Bytes of struct virtio_pci_cap. */
export const STRUCTURE_BYTES = 16;
export const BAR_AT = 4;
export const OFFSET_AT = 8;
export const LENGTH_AT = 12;

export interface StructurePlace {
  readonly bar: number;
  readonly offset: number;
  readonly length: number;
}

/**
 * struct virtio_pci_cap: where a structure lies in the function's BARs.
 * @param multiplier notify_off_multiplier, for the notification structure alone
 */
export function structureCapability(
  structure: number,
  place: StructurePlace,
  multiplier?: number,
): PciCapability {
  const length = STRUCTURE_BYTES + (multiplier === undefined ? 0 : 4);
  return capability(CapabilityId.vendorSpecific, length, (values) => {
    values.setUint8(2, length);
    values.setUint8(3, structure);
    values.setUint8(BAR_AT, place.bar);
    values.setUint32(OFFSET_AT, place.offset, true);
    values.setUint32(LENGTH_AT, place.length, true);
    if (multiplier !== undefined) values.setUint32(STRUCTURE_BYTES, multiplier, true);
  });
}
