import {
  MAP_MMIO,
  MAP_READ,
  MAP_WRITE,
  type Request,
  type RequestType,
} from '../devices/iommu/request.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { IommuEvent } from './event.ts';
import { hex, ridText } from './event-text.ts';
import type { Untimed } from './recorded.ts';

/** A request of the guest's IOMMU driver; one that came too short has no more than its command. */
export function iommuEvent(
  command: RequestType,
  request: Request | undefined,
  status: number,
): Untimed<IommuEvent> {
  const about = { kind: 'iommu', command, status } as const;
  switch (request?.type) {
    case undefined:
      return about;
    case 'probe':
      return { ...about, endpoint: endpointText(request.endpoint) };
    case 'attach':
    case 'detach':
      return { ...about, domain: request.domain, endpoint: endpointText(request.endpoint) };
    case 'map':
      return {
        ...{ ...about, domain: request.domain },
        ...{ start: hex(request.start), end: hex(request.end), target: hex(request.target) },
        rights: rightsText(request.flags),
      };
    case 'unmap':
      return {
        ...{ ...about, domain: request.domain },
        ...{ start: hex(request.start), end: hex(request.end) },
      };
  }
}

/** An endpoint ID is a requester ID where it names a function; a guest may write any 32 bits. */
function endpointText(endpoint: number): string {
  return ridText(endpoint as RequesterId);
}

function rightsText(flags: number): string {
  const letters = [
    [MAP_READ, 'r'],
    [MAP_WRITE, 'w'],
    [MAP_MMIO, 'm'],
  ] as const;
  return letters.map(([flag, letter]) => ((flags & flag) === 0 ? '' : letter)).join('');
}
