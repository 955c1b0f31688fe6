import type { PciCapability } from '../endpoint.ts';

/** Capability IDs, PCI Code and ID Assignment Specification. */
export const CapabilityId = {
  powerManagement: 0x01,
  msi: 0x05,
  vendorSpecific: 0x09,
  express: 0x10,
  msix: 0x11,
} as const;

/**
 * A capability of `length` bytes: `fill` sets its values and marks the bits that a guest may write.
 * The header's next pointer stays 0: whoever lays out the configuration space links the list.
 */
export function capability(
  id: number,
  length: number,
  fill: (values: DataView, writable: DataView) => void,
): PciCapability {
  const bytes = new Uint8Array(length);
  const writable = new Uint8Array(length);
  bytes[0] = id;
  fill(new DataView(bytes.buffer), new DataView(writable.buffer));
  return { id, bytes, writable };
}
