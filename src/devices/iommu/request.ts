/**
 * What the driver puts on the request queue, as bytes and as values (virtio 1.2 §5.13.6). A request
 * has a device-readable part, which begins with its type, and a device-writable part, which ends
 * with a tail of 4 bytes: the status, then zeros.
 */

/** Feature bits of the device type (§5.13.3). */
export const IommuFeature = {
  inputRange: 0,
  domainRange: 1,
  mapUnmap: 2,
  probe: 4,
  mmio: 5,
  bypassConfig: 6,
} as const;

export const Status = {
  ok: 0,
  /** Virtio communication error. */
  ioError: 1,
  unsupported: 2,
  /** Internal device error. */
  deviceError: 3,
  /** Invalid parameters. */
  invalid: 4,
  /** Out-of-range parameters. */
  range: 5,
  /** Entry not found. */
  noEntry: 6,
  /** Bad address. */
  fault: 7,
  /** Insufficient resources. */
  noMemory: 8,
} as const;
export type Status = (typeof Status)[keyof typeof Status];

/** ATTACH flags. */
export const ATTACH_BYPASS = 1;
/** MAP flags. */
export const MAP_READ = 1;
export const MAP_WRITE = 2;
export const MAP_MMIO = 4;

const HEAD_BYTES = 4;
export const TAIL_BYTES = 4;

/** Bytes of the device-readable part, head included. */
const READABLE_BYTES = { attach: 20, detach: 20, map: 36, unmap: 28, probe: 72 } as const;
/** Covers every request of a running guest; a PROBE's rest is padding. */
export const REQUEST_BYTES_MAX = READABLE_BYTES.probe;
export const REQUEST_BYTES_USUAL = READABLE_BYTES.map;

export type RequestType = keyof typeof READABLE_BYTES;
const TYPES: readonly (RequestType | undefined)[] = [
  undefined,
  'attach',
  'detach',
  'map',
  'unmap',
  'probe',
];

/** Addresses are as the driver wrote them, in 64 bits. `end` is the last address, inclusive. */
export type Request =
  | {
      readonly type: 'attach';
      readonly domain: number;
      readonly endpoint: number;
      readonly flags: number;
      /** Whether a field that must be zero is not. */
      readonly reservedSet: boolean;
    }
  | { readonly type: 'detach'; readonly domain: number; readonly endpoint: number }
  | {
      readonly type: 'map';
      readonly domain: number;
      readonly start: bigint;
      readonly end: bigint;
      readonly target: bigint;
      readonly flags: number;
    }
  | {
      readonly type: 'unmap';
      readonly domain: number;
      readonly start: bigint;
      readonly end: bigint;
      readonly reservedSet: boolean;
    }
  | { readonly type: 'probe'; readonly endpoint: number };

/** Reads the head. Undefined: there is no whole head, or the specification knows no such type. */
export function requestType(readable: Uint8Array): RequestType | undefined {
  return readable.length < HEAD_BYTES ? undefined : TYPES[readable[0] as number];
}

/** Reads a request of that type; undefined where it is too short. Bytes beyond it do not matter. */
export function parseRequest(type: RequestType, readable: Uint8Array): Request | undefined {
  if (readable.length < READABLE_BYTES[type]) return undefined;
  const view = new DataView(readable.buffer, readable.byteOffset, readable.byteLength);
  const u32 = (at: number) => view.getUint32(at, true);
  const u64 = (at: number) => view.getBigUint64(at, true);
  switch (type) {
    case 'attach': {
      const flags = u32(12);
      return { type, domain: u32(4), endpoint: u32(8), flags, reservedSet: u32(16) !== 0 };
    }
    case 'detach':
      return { type, domain: u32(4), endpoint: u32(8) };
    case 'map': {
      const [start, end, target] = [u64(8), u64(16), u64(24)];
      return { type, domain: u32(4), start, end, target, flags: u32(32) };
    }
    case 'unmap':
      return { type, domain: u32(4), start: u64(8), end: u64(16), reservedSet: u32(24) !== 0 };
    case 'probe':
      return { type, endpoint: u32(4) };
  }
}
