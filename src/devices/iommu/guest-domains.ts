import { BlockedDomain, type Domain, IdentityDomain, type Rights } from '../../iommu/domain.ts';
import type { Iommu } from '../../iommu/iommu.ts';
import { MappedDomain } from '../../iommu/mapped-domain.ts';
import { gpa } from '../../memory/guest-memory.ts';
import { formatRequesterId, type RequesterId } from '../../pci/requester-id.ts';
import {
  DOMAIN_END,
  DOMAIN_START,
  GRANULE,
  INPUT_END,
  INPUT_START,
  MSI_END,
  MSI_START,
  TARGET_END,
} from './address-space.ts';
import { MAP_MMIO, MAP_READ, MAP_WRITE, Status } from './request.ts';

/** All domains together; some 50 MB of ours where a guest makes as many. */
export const MAPPINGS_MAX = 262_144;

/** The guest's domain: it lives from the first ATTACH that names it until its last endpoint leaves. */
interface GuestDomain {
  readonly id: number;
  /** A bypass domain maps nothing and translates by the identity. */
  readonly mapped: MappedDomain | undefined;
  readonly endpoints: Set<RequesterId>;
}

/**
 * Endpoints, the domains that the guest attaches them to, and what it maps there (virtio 1.2
 * §5.13.6). Of an endpoint's device-table entry it changes the domain and nothing else.
 *
 * When a request's function returns, no DMA can use what the request took away. DMA is synchronous
 * on this thread, a batch of them too: none is in flight while a request is served. The next one
 * looks up the device table, whose version has changed, and finds no line in the IOTLB, since they
 * were invalidated here. So the reply, which is written after that, may go out at once.
 */
export class GuestDomains {
  readonly #iommu: Iommu;
  readonly #mappingsMax: number;
  readonly #identity: IdentityDomain;
  readonly #blocked: BlockedDomain;
  /** The domain that an endpoint is attached to, if any. An endpoint ID is a requester ID. */
  readonly #endpoints = new Map<RequesterId, GuestDomain | undefined>();
  readonly #domains = new Map<number, GuestDomain>();
  #mappings = 0;
  #bypass = true;

  constructor(iommu: Iommu, mappingsMax = MAPPINGS_MAX) {
    this.#iommu = iommu;
    this.#mappingsMax = mappingsMax;
    this.#identity = new IdentityDomain(iommu.newDomainId());
    this.#blocked = new BlockedDomain(iommu.newDomainId());
  }

  /** Domains that have an endpoint. */
  get domains(): number {
    return this.#domains.size;
  }

  /** In all domains. */
  get mappings(): number {
    return this.#mappings;
  }

  /** Whether endpoints that are attached to no domain reach memory by the identity, or nothing. */
  get bypass(): boolean {
    return this.#bypass;
  }

  set bypass(bypass: boolean) {
    this.#bypass = bypass;
    for (const [endpoint, domain] of this.#endpoints) {
      if (domain === undefined) this.#point(endpoint, this.#unattached);
    }
  }

  /** Puts a function behind the IOMMU. @throws Error where it has no device-table entry */
  addEndpoint(endpoint: RequesterId): void {
    if (!this.#point(endpoint, this.#unattached)) {
      throw new Error(
        `expected a device-table entry for ${formatRequesterId(endpoint)}, got none: set one first`,
      );
    }
    this.#endpoints.set(endpoint, undefined);
  }

  /** Takes a function out from behind the IOMMU; where it was the last of its domain, that is gone. */
  removeEndpoint(endpoint: RequesterId): void {
    const domain = this.#endpoints.get(endpoint);
    this.#endpoints.delete(endpoint);
    if (domain !== undefined) this.#leave(domain, endpoint);
  }

  hasEndpoint(endpoint: number): boolean {
    return this.#endpoints.has(endpoint as RequesterId);
  }

  /** No endpoint is attached, no domain is left (§5.13.5). */
  reset(): void {
    for (const endpoint of [...this.#endpoints.keys()]) {
      this.#endpoints.set(endpoint, undefined);
      this.#point(endpoint, this.#unattached);
    }
    for (const { mapped } of this.#domains.values()) {
      if (mapped !== undefined) this.#iommu.iotlb.invalidateDomain(mapped);
    }
    this.#domains.clear();
    this.#mappings = 0;
  }

  /** ATTACH, §5.13.6.3. What is refused leaves the endpoint where it was. */
  attach(id: number, endpointId: number, bypass: boolean): Status {
    const endpoint = endpointId as RequesterId;
    if (!this.#endpoints.has(endpoint)) return Status.noEntry;
    if (id < DOMAIN_START || id > DOMAIN_END) return Status.range;
    const old = this.#endpoints.get(endpoint);
    const there = this.#domains.get(id);
    if (there !== undefined && (there.mapped === undefined) !== bypass) return Status.invalid;
    if (there !== undefined && there === old) return Status.ok;
    const domain = there ?? this.#newDomain(id, bypass);
    if (!this.#point(endpoint, domain.mapped ?? this.#identity)) return Status.deviceError;
    this.#domains.set(id, domain);
    domain.endpoints.add(endpoint);
    this.#endpoints.set(endpoint, domain);
    if (old !== undefined) this.#leave(old, endpoint);
    return Status.ok;
  }

  /** DETACH, §5.13.6.4. */
  detach(id: number, endpointId: number): Status {
    const endpoint = endpointId as RequesterId;
    if (!this.#endpoints.has(endpoint)) return Status.noEntry;
    const domain = this.#endpoints.get(endpoint);
    if (domain === undefined || domain.id !== id) return Status.invalid;
    this.#endpoints.set(endpoint, undefined);
    this.#point(endpoint, this.#unattached);
    this.#leave(domain, endpoint);
    return Status.ok;
  }

  /** MAP, §5.13.6.5; the flags are known ones. `end` is the last address, inclusive. */
  map(id: number, start: bigint, end: bigint, target: bigint, flags: number): Status {
    const domain = this.#domains.get(id);
    if (domain === undefined) return Status.noEntry;
    if (domain.mapped === undefined) return Status.invalid;
    if (start % GRANULE !== 0n || (end + 1n) % GRANULE !== 0n || target % GRANULE !== 0n) {
      return Status.range;
    }
    if (end <= start) return Status.invalid;
    if (start < INPUT_START || end > INPUT_END) return Status.range;
    if (start <= MSI_END && end >= MSI_START) return Status.invalid;
    if (target + (end - start) > TARGET_END) return Status.fault;
    if (this.#mappings >= this.#mappingsMax) return Status.noMemory;
    const made = domain.mapped.map({
      start: Number(start),
      end: Number(end),
      address: gpa(Number(target)),
      rights: rightsOf(flags),
      mmio: (flags & MAP_MMIO) !== 0,
    });
    if (!made) return Status.invalid;
    this.#mappings++;
    return Status.ok;
  }

  /** UNMAP, §5.13.6.6. `end` is the last address, inclusive. */
  unmap(id: number, start: bigint, end: bigint): Status {
    const domain = this.#domains.get(id);
    if (domain === undefined) return Status.noEntry;
    if (domain.mapped === undefined || end < start) return Status.invalid;
    // Nothing is mapped outside the input range, so what lies there is a gap like any other.
    if (start > INPUT_END) return Status.ok;
    const first = Number(start);
    const last = Number(end < INPUT_END ? end : INPUT_END);
    const removed = domain.mapped.unmap(first, last);
    if (removed === 'would-split') return Status.range;
    if (removed > 0) this.#iommu.invalidate(domain.mapped, first, last - first + 1);
    this.#mappings -= removed;
    return Status.ok;
  }

  get #unattached(): Domain {
    return this.#bypass ? this.#identity : this.#blocked;
  }

  #newDomain(id: number, bypass: boolean): GuestDomain {
    const mapped = bypass ? undefined : new MappedDomain(this.#iommu.newDomainId());
    return { id, mapped, endpoints: new Set() };
  }

  #leave(domain: GuestDomain, endpoint: RequesterId): void {
    domain.endpoints.delete(endpoint);
    if (domain.endpoints.size > 0) return;
    this.#domains.delete(domain.id);
    if (domain.mapped === undefined) return;
    this.#mappings -= domain.mapped.size;
    this.#iommu.iotlb.invalidateDomain(domain.mapped);
  }

  /** Answers false where the device table has no entry: then the function is blocked anyway. */
  #point(endpoint: RequesterId, domain: Domain): boolean {
    const { table } = this.#iommu;
    const entry = table.get(endpoint);
    if (entry === undefined) return false;
    table.set(endpoint, { ...entry, domain });
    return true;
  }
}

function rightsOf(flags: number): Rights {
  if ((flags & MAP_READ) !== 0) return (flags & MAP_WRITE) !== 0 ? 'read-write' : 'read';
  return (flags & MAP_WRITE) !== 0 ? 'write' : 'none';
}
