import type { PciEndpoint, ResetCause } from '../pci/endpoint.ts';
import type { RequesterId } from '../pci/requester-id.ts';

/** What faults can do to the function that they are armed at. */
export interface FunctionHost {
  readonly rid: RequesterId;
  /** The function itself, under all that stands around it. */
  readonly device: PciEndpoint;
  /** Resets it as whoever holds the bus would: its configuration space too, where there is one. */
  resetFromOutside(cause: ResetCause): void;
  /** It does nothing until it is reset or healed. */
  stall(): void;
  /** It is not there until it is healed. */
  remove(): void;
  /** Ends {@link stall} or {@link remove} with a reset; does nothing where it is neither. */
  heal(): void;
}
