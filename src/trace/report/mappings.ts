import type { DmaEvent, IommuEvent } from '../event.ts';

/** A buffer that the guest mapped for its devices. */
export interface MappedBuffer {
  /** Requester IDs of the functions in its domain when it was taken away, or at the end. */
  readonly endpoints: readonly string[];
  readonly domain: number;
  readonly start: string;
  readonly bytes: number;
  /** r and w, as the device may. */
  readonly rights: string;
  /** Nanoseconds since the trace began. */
  readonly mapped: number;
  /** Undefined where it was there at the end. */
  readonly unmapped?: number;
}

export interface MappingReport {
  readonly maps: number;
  readonly unmaps: number;
  /** Unmapped without a DMA in them. */
  readonly unused: { readonly count: number; readonly examples: readonly MappedBuffer[] };
  /** Still mapped at the end. */
  readonly left: {
    readonly count: number;
    readonly bytes: number;
    /** Of them without a DMA in them. */
    readonly unused: number;
    readonly examples: readonly MappedBuffer[];
  };
  /** Requests that the IOMMU refused, by command. */
  readonly refused: Readonly<Record<string, number>>;
}

const EXAMPLES_MAX = 10;

interface Mapping {
  readonly start: number;
  /** One past its last address. */
  readonly end: number;
  readonly rights: string;
  readonly t: number;
  used: boolean;
}

interface Domain {
  readonly endpoints: Set<string>;
  /** By rising address, without overlap. */
  mappings: Mapping[];
}

/**
 * What the guest mapped by its virtio-iommu, and whether a device ever went there. Windows for
 * interrupts (MMIO) are no buffers and left out. Mappings go with their domain's last endpoint, and with
 * a reset of the IOMMU: those were not unmapped, but are not left either.
 */
export class Mappings {
  readonly #domains = new Map<number, Domain>();
  #maps = 0;
  #unmaps = 0;
  #unused = 0;
  readonly #examples: MappedBuffer[] = [];
  readonly #refused: Record<string, number> = {};

  request(event: IommuEvent): void {
    const { command, status, domain: id, endpoint } = event;
    if (status !== 0) {
      this.#refused[command] = (this.#refused[command] ?? 0) + 1;
      return;
    }
    if (id === undefined) return;
    switch (command) {
      case 'attach':
        if (endpoint === undefined) return;
        this.#domain(id).endpoints.add(endpoint);
        this.#leave(endpoint, id);
        return;
      case 'detach':
        if (endpoint !== undefined) this.#leave(endpoint);
        return;
      case 'map':
        this.#map(this.#domain(id), event);
        return;
      case 'unmap':
        this.#unmap(id, event);
        return;
      case 'probe':
        return;
    }
  }

  dma({ rid, iova, bytes }: DmaEvent): void {
    const domain = [...this.#domains.values()].find(({ endpoints }) => endpoints.has(rid));
    if (domain === undefined) return;
    const start = Number(iova);
    const { mappings } = domain;
    for (let at = firstEndingAfter(mappings, start); at < mappings.length; at++) {
      const mapping = mappings[at] as Mapping;
      if (mapping.start >= start + bytes) return;
      mapping.used = true;
    }
  }

  /** The IOMMU was reset: nothing is mapped. */
  reset(): void {
    this.#domains.clear();
  }

  get report(): MappingReport {
    const left = [...this.#domains].flatMap(([id, domain]) =>
      domain.mappings.map((mapping) => ({ mapping, buffer: bufferOf(id, domain, mapping) })),
    );
    return {
      maps: this.#maps,
      unmaps: this.#unmaps,
      unused: { count: this.#unused, examples: this.#examples },
      left: {
        count: left.length,
        bytes: left.reduce((sum, { buffer }) => sum + buffer.bytes, 0),
        unused: left.filter(({ mapping }) => !mapping.used).length,
        examples: left.slice(0, EXAMPLES_MAX).map(({ buffer }) => buffer),
      },
      refused: this.#refused,
    };
  }

  #domain(id: number): Domain {
    let domain = this.#domains.get(id);
    if (domain === undefined) {
      domain = { endpoints: new Set(), mappings: [] };
      this.#domains.set(id, domain);
    }
    return domain;
  }

  /** From all domains but the one where it stays. */
  #leave(endpoint: string, stays?: number): void {
    for (const [id, { endpoints }] of this.#domains) {
      if (id === stays || !endpoints.delete(endpoint)) continue;
      if (endpoints.size === 0) this.#domains.delete(id);
    }
  }

  #map({ mappings }: Domain, { start, end, rights = '', t }: IommuEvent): void {
    if (start === undefined || end === undefined || rights.includes('m')) return;
    this.#maps++;
    const mapping = { start: Number(start), end: Number(end) + 1, rights, t, used: false };
    mappings.splice(firstEndingAfter(mappings, mapping.start), 0, mapping);
  }

  #unmap(id: number, { start, end, t }: IommuEvent): void {
    const domain = this.#domains.get(id);
    if (domain === undefined || start === undefined || end === undefined) return;
    const { mappings } = domain;
    const first = firstEndingAfter(mappings, Number(start));
    let last = first;
    while (last < mappings.length && (mappings[last] as Mapping).start <= Number(end)) last++;
    for (const mapping of mappings.splice(first, last - first)) {
      this.#unmaps++;
      if (mapping.used) continue;
      this.#unused++;
      if (this.#examples.length < EXAMPLES_MAX) {
        this.#examples.push({ ...bufferOf(id, domain, mapping), unmapped: t });
      }
    }
  }
}

/** Where the first mapping is that ends after `address`; their number where there is none. */
function firstEndingAfter(mappings: readonly Mapping[], address: number): number {
  let low = 0;
  let high = mappings.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((mappings[middle] as Mapping).end > address) high = middle;
    else low = middle + 1;
  }
  return low;
}

function bufferOf(domain: number, { endpoints }: Domain, mapping: Mapping): MappedBuffer {
  const { start, end, rights, t } = mapping;
  return {
    endpoints: [...endpoints],
    domain,
    start: `0x${start.toString(16)}`,
    bytes: end - start,
    rights,
    mapped: t,
  };
}
