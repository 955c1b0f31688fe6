import type { PciEndpoint } from '../pci/endpoint.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import {
  attachTo,
  expectStill,
  giveBack,
  type HotPlugOptions,
  letGo,
  placeFor,
  placesOf,
  plugAt,
} from './hot-plug.ts';
import type { Machine, PluggedFunction } from './machine.ts';

export interface MoveOptions extends HotPlugOptions {
  /**
   * Where it goes, as the other guest has it. Unless told, to the address that it had, or, where that cannot be,
   * behind the first root port that is free.
   */
  readonly address?: RequesterId;
  /** What is plugged in there, for functions that cannot be handed over: a new one, of nobody's yet. */
  readonly endpoint?: PciEndpoint;
}

/**
 * Takes a function from its VM and gives it to another of the same platform, as an SR-IOV function is
 * given (claim 8): it gets a place on the other's segment, and the other's memory, slot and IOMMU.
 *
 * A guest that runs is asked to let go of a function behind a root port; where it does not in time, and on bus 0, it
 * loses the function all the same, which is logged. A guest that runs gets it behind a root port.
 *
 * The first VM has lost it before the second one has it, when this resolves, and by then nothing is under way that
 * the first one asked for: DMA is over on return and a reset lets no more begin; what a disk still did with the
 * function's own buffers has been waited for (PciEndpoint.handOver).
 * @throws Error where the second VM has no place for it, the function can neither be handed over nor is replaced,
 *   the VMs are of two platforms, or the function is not plugged in any more, and then nothing has moved;
 *   NotInGuestError where it has moved, and the second VM's QEMU did not take it
 */
export async function moveFunction(
  plugged: PluggedFunction,
  to: Machine,
  options: MoveOptions = {},
): Promise<PluggedFunction> {
  const { machine: from, endpoint } = plugged;
  if (from.platform !== to.platform) {
    throw new Error(
      'expected two VMs of one platform, got one of another: make both on one Platform',
    );
  }
  if (options.endpoint === undefined && endpoint.handOver === undefined) {
    throw new Error(
      `expected a function that can be handed over, got ${endpoint.constructor.name}, which has no ` +
        'handOver(): give a new one as endpoint',
    );
  }
  using guest = await to.monitor.open(options.patience);
  const { address } = options;
  const places = address === undefined ? placesOf(to, plugged.address) : [address];
  using place = await placeFor(to, places, guest, options);
  const kept = await letGo(plugged, options);
  await expectStill(to, place, guest, options).catch(async (error: unknown) => {
    if (kept === undefined) {
      await giveBack(plugged, options).catch(({ message }: Error) => from.log(message));
    }
    throw error;
  });
  from.unplug(plugged);
  if (kept !== undefined) {
    from.log(
      `${formatRequesterId(plugged.rid)} was pulled out of a guest that has not let go of it: ${kept}`,
    );
  }
  const next = (await endpoint.handOver?.()) ?? options.endpoint;
  const moved = plugAt(to, place, options.endpoint ?? (next as PciEndpoint));
  if (guest !== undefined) await attachTo(guest, moved, options);
  return moved;
}
