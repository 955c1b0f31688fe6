import type { Machine } from '../machine/machine.ts';

/** Ranges that are told of; a guest's driver may have pages shared here and there. */
const RANGES_MAX = 256;

/** What of a VM's memory is shared, as people look at it. */
export interface SharedDescription {
  /** All of it, also where no VMM says now at which addresses the guest has it. */
  readonly bytes: number;
  /** By guest-physical addresses, in their order; adjoining pages are one range. */
  readonly ranges: readonly { readonly address: string; readonly bytes: number }[];
  /** Whether there are more ranges. */
  readonly more: boolean;
}

/** Null where memory is plain, which has no private pages. */
export function sharedDescription({ sealed, pages }: Machine): SharedDescription | null {
  if (sealed === undefined) return null;
  const { ranges, ...rest } = pages.shared(RANGES_MAX);
  const shown = ranges.map(({ address, bytes }) => ({
    address: `0x${address.toString(16)}`,
    bytes,
  }));
  return { ...rest, ranges: shown };
}
