/**
 * What virtio 1.2 §5.13.6 says of a request, as plainly as it can be written: mappings in a list,
 * addresses as big integers, no limits but those that the configuration names.
 */
const [OK, INVAL, RANGE, NOENT, FAULT] = [0, 4, 5, 6, 7];
const LENGTHS = [undefined, 20, 20, 36, 28, 72];
const PROBE_SIZE = 64;

interface Mapped {
  readonly start: bigint;
  readonly end: bigint;
  readonly target: bigint;
  readonly flags: number;
}

export class IommuModel {
  readonly attached = new Map<number, number>();
  readonly domains = new Map<number, { bypass: boolean; mappings: Mapped[] }>();
  readonly endpoints: readonly number[];

  constructor(endpoints: readonly number[]) {
    this.endpoints = endpoints;
  }

  /** Status and where it stands in the reply; undefined where nothing is written. */
  serve(readable: Uint8Array, writable: number): { at: number; status: number } | undefined {
    const type = readable.length < 4 ? 0 : (readable[0] ?? 0);
    const length = LENGTHS[type];
    if (length === undefined || writable < 4) return undefined;
    const at = type === 5 ? Math.min(PROBE_SIZE, writable - 4) : 0;
    if (readable.length < length) return { at, status: INVAL };
    if (type === 5 && at < PROBE_SIZE) return { at, status: INVAL };
    return { at, status: this.#status(type, Buffer.from(readable)) };
  }

  /** Where a byte of an endpoint's leads, by mappings; the identity in bypass mode. */
  translate(endpoint: number, iova: bigint, flag: number): bigint | undefined {
    const domain = this.domains.get(this.attached.get(endpoint) ?? -1);
    if (domain === undefined || domain.bypass) return iova;
    const found = domain.mappings.find(({ start, end }) => start <= iova && iova <= end);
    if (found === undefined || (found.flags & flag) === 0) return undefined;
    return iova - found.start + found.target;
  }

  #status(type: number, request: Buffer): number {
    const id = request.readUInt32LE(4);
    const domain = this.domains.get(id);
    switch (type) {
      case 1:
        return this.#attach(id, request);
      case 2: {
        const endpoint = request.readUInt32LE(8);
        if (!this.endpoints.includes(endpoint)) return NOENT;
        if (this.attached.get(endpoint) !== id) return INVAL;
        this.#leave(endpoint);
        return OK;
      }
      case 3: {
        const flags = request.readUInt32LE(32);
        if (flags > 7) return INVAL;
        if (domain === undefined) return NOENT;
        if (domain.bypass) return INVAL;
        return this.#map(domain.mappings, request, flags);
      }
      case 4: {
        if (request.readUInt32LE(24) !== 0) return INVAL;
        if (domain === undefined) return NOENT;
        const [start, end] = [request.readBigUInt64LE(8), request.readBigUInt64LE(16)];
        if (domain.bypass || end < start) return INVAL;
        const met = domain.mappings.filter((each) => each.start <= end && each.end >= start);
        if (met.some((each) => each.start < start || each.end > end)) return RANGE;
        domain.mappings = domain.mappings.filter((each) => !met.includes(each));
        return OK;
      }
      default:
        return this.endpoints.includes(id) ? OK : NOENT;
    }
  }

  #attach(id: number, request: Buffer): number {
    const [endpoint, flags] = [request.readUInt32LE(8), request.readUInt32LE(12)];
    if (request.readUInt32LE(16) !== 0 || flags > 1) return INVAL;
    if (!this.endpoints.includes(endpoint)) return NOENT;
    if (id > 0xffff) return RANGE;
    const bypass = flags === 1;
    const domain = this.domains.get(id);
    if (domain !== undefined && domain.bypass !== bypass) return INVAL;
    if (this.attached.get(endpoint) === id) return OK;
    if (this.attached.has(endpoint)) this.#leave(endpoint);
    if (domain === undefined) this.domains.set(id, { bypass, mappings: [] });
    this.attached.set(endpoint, id);
    return OK;
  }

  #leave(endpoint: number): void {
    const id = this.attached.get(endpoint) ?? -1;
    this.attached.delete(endpoint);
    if (![...this.attached.values()].includes(id)) this.domains.delete(id);
  }

  #map(mappings: Mapped[], request: Buffer, flags: number): number {
    const [start, end] = [request.readBigUInt64LE(8), request.readBigUInt64LE(16)];
    const target = request.readBigUInt64LE(24);
    const odd = [start, end + 1n, target].some((address) => (address & 0xfffn) !== 0n);
    if (odd) return RANGE;
    if (end <= start) return INVAL;
    if (end >= 1n << 48n) return RANGE;
    const meets = (from: bigint, to: bigint) => from <= end && to >= start;
    if (meets(0xfee0_0000n, 0xfeef_ffffn)) return INVAL;
    if (target + end - start >= 1n << 52n) return FAULT;
    if (mappings.some((each) => meets(each.start, each.end))) return INVAL;
    mappings.push({ start, end, target, flags });
    return OK;
  }
}
