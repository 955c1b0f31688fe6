/** Requests as a driver writes them, and an IOMMU with a few functions behind it. */
import { GuestDomains } from '../../../../src/devices/iommu/guest-domains.ts';
import { RequestHandler } from '../../../../src/devices/iommu/request-handler.ts';
import { IdentityDomain } from '../../../../src/iommu/domain.ts';
import { Iommu } from '../../../../src/iommu/iommu.ts';
import { keySlot } from '../../../../src/keys/key-slot.ts';
import { vmId } from '../../../../src/keys/vm-id.ts';
import { parseRequesterId } from '../../../../src/pci/requester-id.ts';
import { FourSlots, nativeMemory } from '../../iommu/bench-memory.ts';

export const PAGE = 4096n;
/** The functions behind the IOMMU. */
export const ENDPOINTS = ['00:04.0', '00:05.0', '00:06.0'].map((name) => parseRequesterId(name));
export const FEATURES = [0, 1, 2, 4, 5, 6];

/** Little-endian fields, each with its bytes: [value, 4], [value, 8], or zeros as [0, n]. */
function struct(...fields: readonly (readonly [number | bigint, number])[]): Uint8Array {
  const bytes = new Uint8Array(fields.reduce((sum, [, size]) => sum + size, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [value, size] of fields) {
    if (size === 8) view.setBigUint64(at, BigInt(value), true);
    else if (size === 4) view.setUint32(at, Number(value), true);
    else bytes[at] = Number(value);
    at += size;
  }
  return bytes;
}

/** struct virtio_iommu_req_… of virtio 1.2 §5.13.6, without the tail. */
export const bytesOf = {
  attach: (domain: number, endpoint: number, flags = 0, reserved = 0) =>
    struct([1, 1], [0, 3], [domain, 4], [endpoint, 4], [flags, 4], [reserved, 4]),
  detach: (domain: number, endpoint: number) =>
    struct([2, 1], [0, 3], [domain, 4], [endpoint, 4], [0, 8]),
  map: (domain: number, start: bigint, end: bigint, target: bigint, flags = 3) =>
    struct([3, 1], [0, 3], [domain, 4], [start, 8], [end, 8], [target, 8], [flags, 4]),
  unmap: (domain: number, start: bigint, end: bigint, reserved = 0) =>
    struct([4, 1], [0, 3], [domain, 4], [start, 8], [end, 8], [reserved, 4]),
  probe: (endpoint: number) => struct([5, 1], [0, 3], [endpoint, 4], [0, 64]),
};

export const MEMORY_BYTES = 24 * 4096;
/** One for all: a property sets up hundreds of times. */
const native = nativeMemory(MEMORY_BYTES);

export function setUp(options: { features?: readonly number[]; mappingsMax?: number } = {}) {
  const { features = FEATURES, mappingsMax } = options;
  const iommu = new Iommu(new FourSlots());
  native.bytes.fill(0);
  const domains = new GuestDomains(iommu, mappingsMax);
  const ports = ENDPOINTS.map((rid) => {
    const domain = new IdentityDomain(iommu.newDomainId());
    iommu.table.set(rid, { domain, vm: vmId(1), slot: keySlot(1), rights: 'read-write' });
    domains.addEndpoint(rid);
    const port = iommu.port(rid, native.memory);
    port.busMaster = true;
    return port;
  });
  const handler = new RequestHandler(domains, (feature) => features.includes(feature));
  /** The reply, or undefined where nothing was written. */
  const serve = (readable: Uint8Array, writable = 4) => handler.serve(readable, writable)?.slice();
  /** The status of a request of four reply bytes. */
  const ask = (readable: Uint8Array) => serve(readable)?.[0];
  return { iommu, domains, ports, handler, serve, ask, memory: native.bytes };
}
