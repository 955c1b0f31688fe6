import type { PciCapability } from '../endpoint.ts';
import { CapabilityId, capability } from './capability.ts';

const CONTROL = 0x02;
const ADDRESS = 0x04;
const ADDRESS_HIGH = 0x08;

const ENABLE = 1 << 0;
const VECTORS_ENABLED = 0x7 << 4;
const IS_64_BIT = 1 << 7;
const MASKABLE = 1 << 8;

export interface MsiOptions {
  /** 1, 2, 4, 8, 16 or 32. */
  readonly vectors: number;
  /** Default true. */
  readonly address64?: boolean;
  /** Mask and pending bits for each vector. Default false. */
  readonly maskable?: boolean;
}

/** Message signalled interrupts, PCI Local Bus 3.0 section 6.8.1. @throws RangeError */
export function msiCapability(options: MsiOptions): PciCapability {
  const { vectors, address64 = true, maskable = false } = options;
  const log2 = Math.log2(vectors);
  if (!Number.isInteger(log2) || log2 < 0 || log2 > 5) {
    throw new RangeError(`expected 1, 2, 4, 8, 16 or 32 MSI vectors, got ${vectors}`);
  }
  const data = address64 ? 0x0c : 0x08;
  const length = maskable ? data + 12 : data + 2;
  return capability(CapabilityId.msi, length, (values, writable) => {
    const features = (address64 ? IS_64_BIT : 0) | (maskable ? MASKABLE : 0);
    values.setUint16(CONTROL, (log2 << 1) | features, true);
    writable.setUint16(CONTROL, ENABLE | VECTORS_ENABLED, true);
    writable.setUint32(ADDRESS, 0xffff_fffc, true);
    if (address64) writable.setUint32(ADDRESS_HIGH, 0xffff_ffff, true);
    writable.setUint16(data, 0xffff, true);
    if (maskable) writable.setUint32(data + 4, 2 ** vectors - 1, true);
  });
}
