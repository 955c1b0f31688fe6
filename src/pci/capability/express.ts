import type { PciCapability } from '../endpoint.ts';
import { CapabilityId, capability } from './capability.ts';

const CAPABILITIES = 0x02;
const DEVICE_CAPABILITIES = 0x04;
const DEVICE_CONTROL = 0x08;
const LINK_CAPABILITIES = 0x0c;
const LINK_CONTROL = 0x10;
const LINK_STATUS = 0x12;
const DEVICE_CONTROL_2 = 0x28;
const LINK_CAPABILITIES_2 = 0x2c;
const LINK_CONTROL_2 = 0x30;

const VERSION_2 = 2;
const ENDPOINT = 0x0;
const ROOT_COMPLEX_ENDPOINT = 0x9;
const EXTENDED_TAG = 1 << 5;
const ROLE_BASED_ERRORS = 1 << 15;
const FUNCTION_LEVEL_RESET = 1 << 28;
const INITIATE_RESET = 1 << 15;

/** 8 GT/s by 4 lanes: what a guest prints; nothing here goes over a link. */
const SPEED_8GT = 3;
const LANES = 4;
const SUPPORTED_SPEEDS = 0b111 << 1;

export interface ExpressOptions {
  /** Function-level reset. Default true. */
  readonly flr?: boolean;
  /** Longest payload of one packet, in bytes: 128 to 4096. Default 256. */
  readonly maxPayload?: 128 | 256 | 512 | 1024 | 2048 | 4096;
  /** True where it sits on the root complex itself and has no link. Default false. */
  readonly integrated?: boolean;
}

/** PCI Express capability, version 2, of an endpoint: PCIe Base Specification section 7.5.3. */
export function expressCapability(options: ExpressOptions = {}): PciCapability {
  const { flr = true, maxPayload = 256, integrated = false } = options;
  return capability(CapabilityId.express, 0x3c, (values, writable) => {
    const type = integrated ? ROOT_COMPLEX_ENDPOINT : ENDPOINT;
    values.setUint16(CAPABILITIES, VERSION_2 | (type << 4), true);
    const features = EXTENDED_TAG | ROLE_BASED_ERRORS | (flr ? FUNCTION_LEVEL_RESET : 0);
    values.setUint32(DEVICE_CAPABILITIES, Math.log2(maxPayload / 128) | features, true);
    // Relaxed ordering, extended tag, no snoop on; 512-byte read requests: the defaults after reset.
    values.setUint16(DEVICE_CONTROL, 0x2910, true);
    writable.setUint16(DEVICE_CONTROL, 0x7fff | (flr ? INITIATE_RESET : 0), true);
    writable.setUint16(DEVICE_CONTROL_2, 0x001f, true);
    if (integrated) return;
    values.setUint32(LINK_CAPABILITIES, SPEED_8GT | (LANES << 4), true);
    values.setUint16(LINK_STATUS, SPEED_8GT | (LANES << 4), true);
    writable.setUint16(LINK_CONTROL, 0x00c3, true);
    values.setUint32(LINK_CAPABILITIES_2, SUPPORTED_SPEEDS, true);
    values.setUint16(LINK_CONTROL_2, SPEED_8GT, true);
    writable.setUint16(LINK_CONTROL_2, 0x000f, true);
  });
}
