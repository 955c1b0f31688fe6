/** What a PROBE says of an endpoint (virtio 1.2 §5.13.6.8): one reserved region, of interrupts. */
import { MSI_END, MSI_START } from './address-space.ts';

const PROPERTY_HEAD_BYTES = 4;
const RESV_MEM_BYTES = 20;
const PROPERTY_RESV_MEM = 1;
const RESV_MEM_MSI = 1;

/** Bytes of the properties in a PROBE's reply; `probe_size` in the configuration. */
export const PROBE_BYTES = 64;

/** Every endpoint's properties; what is left of the bytes is zero, which ends the list. */
export function writeProperties(into: Uint8Array): void {
  const view = new DataView(into.buffer, into.byteOffset, PROBE_BYTES);
  into.fill(0, 0, PROBE_BYTES);
  view.setUint16(0, PROPERTY_RESV_MEM, true);
  view.setUint16(2, RESV_MEM_BYTES, true);
  view.setUint8(PROPERTY_HEAD_BYTES, RESV_MEM_MSI);
  view.setBigUint64(PROPERTY_HEAD_BYTES + 4, MSI_START, true);
  view.setBigUint64(PROPERTY_HEAD_BYTES + 12, MSI_END, true);
}
