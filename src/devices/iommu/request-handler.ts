import type { GuestDomains } from './guest-domains.ts';
import { PROBE_BYTES, writeProperties } from './probe.ts';
import {
  ATTACH_BYPASS,
  IommuFeature,
  MAP_MMIO,
  MAP_READ,
  MAP_WRITE,
  parseRequest,
  type Request,
  type RequestType,
  requestType,
  Status,
  TAIL_BYTES,
} from './request.ts';

/** Bytes of the longest reply. */
const REPLY_BYTES_MAX = PROBE_BYTES + TAIL_BYTES;

/**
 * Sees a request and the status that answers it; undefined is one of this type that came too short.
 * What it throws would be the device's failure.
 */
export type RequestListener = (
  type: RequestType,
  request: Request | undefined,
  status: Status,
) => void;

/** Serves requests: their device-readable bytes in, their device-writable bytes out. */
export class RequestHandler {
  readonly #domains: GuestDomains;
  readonly #negotiated: (feature: number) => boolean;
  readonly #reply = new Uint8Array(REPLY_BYTES_MAX);
  readonly #listeners = new Set<RequestListener>();

  /** @param negotiated whether driver and device have agreed on a feature */
  constructor(domains: GuestDomains, negotiated: (feature: number) => boolean) {
    this.#domains = domains;
    this.#negotiated = negotiated;
  }

  /** Calls `listener` with each request that is answered. Answers how to stop that. */
  onRequest(listener: RequestListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Does what a request asks, and answers what goes into its device-writable part from the start
   * on: an array that holds until the next call. Undefined where nothing is to be written and
   * nothing was done: the type is unknown or was not negotiated, or there is no whole head or no
   * room for a tail (virtio 1.2 §5.13.6).
   *
   * @param writable bytes that there is room for
   */
  serve(readable: Uint8Array, writable: number): Uint8Array | undefined {
    const type = requestType(readable);
    if (type === undefined || !this.#available(type) || writable < TAIL_BYTES) return undefined;
    const request = parseRequest(type, readable);
    // Where the tail of a PROBE is, the driver's room for properties says.
    const properties = type === 'probe' ? Math.min(PROBE_BYTES, writable - TAIL_BYTES) : 0;
    const reply = this.#reply.subarray(0, properties + TAIL_BYTES);
    reply.fill(0);
    const status =
      request === undefined || (type === 'probe' && properties < PROBE_BYTES)
        ? Status.invalid
        : this.#status(request, reply);
    reply[properties] = status;
    for (const listener of this.#listeners) listener(type, request, status);
    return reply;
  }

  #available(type: RequestType): boolean {
    if (type === 'map' || type === 'unmap') return this.#negotiated(IommuFeature.mapUnmap);
    return type !== 'probe' || this.#negotiated(IommuFeature.probe);
  }

  #status(request: Request, reply: Uint8Array): Status {
    const domains = this.#domains;
    switch (request.type) {
      case 'attach': {
        const { domain, endpoint, flags, reservedSet } = request;
        const known = this.#negotiated(IommuFeature.bypassConfig) ? ATTACH_BYPASS : 0;
        if (reservedSet || (flags & ~known) !== 0) return Status.invalid;
        return domains.attach(domain, endpoint, (flags & ATTACH_BYPASS) !== 0);
      }
      case 'detach':
        return domains.detach(request.domain, request.endpoint);
      case 'map': {
        const { domain, start, end, target, flags } = request;
        const mmio = this.#negotiated(IommuFeature.mmio) ? MAP_MMIO : 0;
        if ((flags & ~(MAP_READ | MAP_WRITE | mmio)) !== 0) return Status.invalid;
        return domains.map(domain, start, end, target, flags);
      }
      case 'unmap':
        // The specification leaves open whether it is done all the same: a refusal changes nothing.
        if (request.reservedSet) return Status.invalid;
        return domains.unmap(request.domain, request.start, request.end);
      case 'probe':
        if (!domains.hasEndpoint(request.endpoint)) return Status.noEntry;
        writeProperties(reply);
        return Status.ok;
    }
  }
}
