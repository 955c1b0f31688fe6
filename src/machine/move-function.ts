import type { PciEndpoint } from '../pci/endpoint.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { Machine, PluggedFunction } from './machine.ts';

export interface MoveOptions {
  /** Where it goes, as the other guest has it; to the address that it had unless told. */
  readonly address?: RequesterId;
  /** What is plugged in there, for functions that cannot be handed over: a new one, of nobody's yet. */
  readonly endpoint?: PciEndpoint;
}

/**
 * Takes a function from its VM and gives it to another of the same platform, as an SR-IOV function is
 * given (claim 8): it gets a place on the other's segment, and the other's memory, slot and IOMMU.
 *
 * The first VM has lost it before this returns to the event loop. The second one has it when this resolves, and
 * by then nothing is under way that the first one asked for: DMA is over on return and a reset lets no more
 * begin; what a disk still did with the function's own buffers has been waited for (PciEndpoint.handOver).
 * @throws Error where the place is taken, the function can neither be handed over nor is replaced, the VMs are
 *   of two platforms, or the function is not plugged in any more
 */
export async function moveFunction(
  plugged: PluggedFunction,
  to: Machine,
  options: MoveOptions = {},
): Promise<PluggedFunction> {
  const { machine: from, endpoint } = plugged;
  const address = options.address ?? plugged.address;
  const place = formatRequesterId(address);
  if (from.platform !== to.platform) {
    throw new Error(
      'expected two VMs of one platform, got one of another: make both on one Platform',
    );
  }
  if (to.functions.some((other) => other.address === address)) {
    throw new Error(`expected a free place for the function, got ${place}, which is taken there`);
  }
  if (options.endpoint === undefined && endpoint.handOver === undefined) {
    throw new Error(
      `expected a function that can be handed over, got ${endpoint.constructor.name}, which has no ` +
        'handOver(): give a new one as endpoint',
    );
  }
  from.unplug(plugged);
  const next = (await endpoint.handOver?.()) ?? options.endpoint;
  return to.plug(options.endpoint ?? (next as PciEndpoint), address);
}
