import type { Rights } from '../iommu/domain.ts';
import type { Iommu } from '../iommu/iommu.ts';
import { MAPPING_GRANULE, MappedDomain } from '../iommu/mapped-domain.ts';
import { gpa } from '../memory/guest-memory.ts';
import type { BufferListener } from './client-memory.ts';
import type { GuestBuffer } from './guest-buffer.ts';

/**
 * A domain as a careful driver keeps it: what is allocated is mapped, page by page and one to one, and
 * what is freed is not. So a device that runs past its buffer, or uses it too late, is refused.
 */
export class BufferDomain implements BufferListener {
  readonly domain: MappedDomain;
  readonly #iommu: Iommu;
  /** Pages hold several buffers where these are aligned to less: how many. */
  readonly #users = new Map<number, number>();

  constructor(iommu: Iommu) {
    this.#iommu = iommu;
    this.domain = new MappedDomain(iommu.newDomainId());
  }

  allocated(buffer: GuestBuffer, rights: Rights): void {
    for (const page of pagesOf(buffer)) {
      const users = this.#users.get(page) ?? 0;
      this.#users.set(page, users + 1);
      if (users > 0) continue;
      const end = page + MAPPING_GRANULE - 1;
      this.domain.map({ start: page, end, address: gpa(page), rights, mmio: false });
    }
  }

  freed(buffer: GuestBuffer): void {
    for (const page of pagesOf(buffer)) {
      const users = (this.#users.get(page) ?? 1) - 1;
      if (users > 0) {
        this.#users.set(page, users);
        continue;
      }
      this.#users.delete(page);
      this.domain.unmap(page, page + MAPPING_GRANULE - 1);
      this.#iommu.invalidate(this.domain, page, MAPPING_GRANULE);
    }
  }
}

function* pagesOf({ gpa: start, length }: GuestBuffer): Generator<number, void, void> {
  const first = start - (start % MAPPING_GRANULE);
  for (let page = first; page < start + length; page += MAPPING_GRANULE) yield page;
}
