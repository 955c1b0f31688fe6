import type { PciEndpoint } from './endpoint.ts';

/**
 * Configuration space as it is after power-on: the type 0 header (PCI Local Bus 3.0 section 6.1)
 * and the list of capabilities. The transport owns the live one; this is what it starts from.
 */

/** Offsets in the type 0 header. */
export const Header = {
  vendor: 0x00,
  device: 0x02,
  command: 0x04,
  status: 0x06,
  revision: 0x08,
  classCode: 0x09,
  cacheLine: 0x0c,
  latency: 0x0d,
  headerType: 0x0e,
  bar0: 0x10,
  subsystemVendor: 0x2c,
  subsystem: 0x2e,
  capabilities: 0x34,
  interruptLine: 0x3c,
  interruptPin: 0x3d,
} as const;

/** Bits of the command register. */
export const Command = {
  ioSpace: 1 << 0,
  memorySpace: 1 << 1,
  busMaster: 1 << 2,
  parity: 1 << 6,
  serr: 1 << 8,
  interruptDisable: 1 << 10,
} as const;

const STATUS_CAPABILITIES = 1 << 4;

const BAR_IO = 0x1;
const BAR_64 = 0x4;
const BAR_PREFETCHABLE = 0x8;

const FIRST_CAPABILITY = 0x40;
/** Capabilities lie below this, also where there are 4 KiB. */
const CAPABILITIES_END = 0x100;

export interface ConfigSpace {
  /** 256 bytes, or 4096 of a PCI Express function. */
  readonly bytes: Uint8Array;
  /** A bit is 1 where a guest's write reaches it; the low bits of BARs give their size. */
  readonly writable: Uint8Array;
  /** Where each capability lies, in the order of the endpoint's list. */
  readonly capabilityOffsets: readonly number[];
}

/** @throws RangeError where the capabilities do not fit between 0x40 and 0xff. */
export function configSpace(endpoint: PciEndpoint): ConfigSpace {
  const size = endpoint.express ? 4096 : 256;
  const bytes = new Uint8Array(size);
  const writable = new Uint8Array(size);
  const values = new DataView(bytes.buffer);
  const masks = new DataView(writable.buffer);

  const { identity } = endpoint;
  values.setUint16(Header.vendor, identity.vendor, true);
  values.setUint16(Header.device, identity.device, true);
  values.setUint8(Header.revision, identity.revision);
  values.setUint8(Header.classCode, identity.classCode & 0xff);
  values.setUint16(Header.classCode + 1, identity.classCode >>> 8, true);
  values.setUint16(Header.subsystemVendor, identity.subsystemVendor, true);
  values.setUint16(Header.subsystem, identity.subsystem, true);
  values.setUint8(Header.interruptPin, endpoint.interruptVectors.intx);
  masks.setUint8(Header.interruptLine, 0xff);
  masks.setUint8(Header.cacheLine, 0xff);
  masks.setUint16(Header.command, commandBits(endpoint), true);

  placeBars(endpoint, values, masks);
  const capabilityOffsets = placeCapabilities(endpoint, bytes, writable);
  if (capabilityOffsets.length > 0) values.setUint16(Header.status, STATUS_CAPABILITIES, true);
  return { bytes, writable, capabilityOffsets };
}

function commandBits(endpoint: PciEndpoint): number {
  let bits = Command.busMaster | Command.parity | Command.serr | Command.interruptDisable;
  for (const bar of endpoint.bars) {
    if (bar !== undefined) bits |= bar.kind === 'io' ? Command.ioSpace : Command.memorySpace;
  }
  return bits;
}

function placeBars(endpoint: PciEndpoint, values: DataView, masks: DataView): void {
  for (const [index, bar] of endpoint.bars.entries()) {
    if (bar === undefined) continue;
    const at = Header.bar0 + 4 * index;
    const type =
      bar.kind === 'io'
        ? BAR_IO
        : (bar.width === 64 ? BAR_64 : 0) | (bar.prefetchable ? BAR_PREFETCHABLE : 0);
    values.setUint32(at, type, true);
    const mask = BigInt.asUintN(64, -BigInt(bar.size));
    masks.setUint32(at, Number(mask & 0xffff_ffffn), true);
    if (bar.width === 64) masks.setUint32(at + 4, Number(mask >> 32n), true);
  }
}

function placeCapabilities(
  endpoint: PciEndpoint,
  bytes: Uint8Array,
  writable: Uint8Array,
): readonly number[] {
  const offsets: number[] = [];
  let link: number = Header.capabilities;
  let next = FIRST_CAPABILITY;
  for (const capability of endpoint.capabilities) {
    if (next + capability.bytes.length > CAPABILITIES_END) {
      throw new RangeError(
        `capability 0x${capability.id.toString(16)} of ${capability.bytes.length} bytes does not fit below 0x100: it would start at 0x${next.toString(16)}`,
      );
    }
    bytes.set(capability.bytes, next);
    if (capability.writable !== undefined) writable.set(capability.writable, next);
    bytes[link] = next;
    bytes[next + 1] = 0;
    link = next + 1;
    offsets.push(next);
    next = Math.ceil((next + capability.bytes.length) / 4) * 4;
  }
  return offsets;
}
