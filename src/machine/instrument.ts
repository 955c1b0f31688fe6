import type { PciEndpoint } from '../pci/endpoint.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { Machine } from './machine.ts';

/**
 * What watches or disturbs a machine, such as a trace or a plan of faults. Devices know nothing of it. Where
 * machines share a platform it meets what is of its own one alone: the functions, the faults and the DMA on its
 * segment.
 */
export interface Instrument {
  /** Once, as soon as memory and IOMMU are there and before any function is. */
  install?(machine: Machine): void;
  /**
   * What is plugged in in place of a function: something around it, or the function as it is.
   * `device` is the function itself, under whatever other instruments have put around it.
   */
  around?(endpoint: PciEndpoint, rid: RequesterId, device: PciEndpoint): PciEndpoint;
  /** A function was pulled out, or could not be plugged in: its place is free for another. */
  left?(rid: RequesterId): void;
  /** A fault on demand has struck one of the machine's functions. */
  injected?(rid: RequesterId, fault: string, detail: string): void;
  /** Once, when all else of the machine has ended. */
  end?(): void;
}

/** Installs all of them, or none: those before one that refuses are ended. @throws what that one throws */
export function installAll(instruments: readonly Instrument[], machine: Machine): void {
  using undo = new DisposableStack();
  for (const one of instruments) {
    one.install?.(machine);
    undo.defer(() => one.end?.());
  }
  undo.move();
}

/** A function with what all of them put around it, the first one innermost. */
export function surround(
  instruments: readonly Instrument[],
  device: PciEndpoint,
  rid: RequesterId,
): PciEndpoint {
  return instruments.reduce((so, one) => one.around?.(so, rid, device) ?? so, device);
}

/** Tells all of them that a function has gone. */
export function tellLeft(instruments: readonly Instrument[], rid: RequesterId): void {
  for (const instrument of instruments) instrument.left?.(rid);
}
