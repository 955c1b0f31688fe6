/** What a primary controller tells of SR-IOV's secondary ones (NVMe 1.4 §8.5). */
import type { SubsystemPlace } from '../subsystem-place.ts';
import { list, nested, structure, u8, u16 } from './structure.ts';

/**
 * Primary Controller Capabilities, NVMe 1.4 §5.15.2.10 (CNS 14h). No resource is flexible (CRT 0): each
 * controller has all its queues and vectors for itself, so the counts of those that can be moved are 0.
 */
const primaryController = structure(4096, { cntlid: u16(0), portid: u16(2), crt: u8(4) });

/** Secondary Controller Entry, §5.15.2.11. */
const secondaryEntry = structure(32, {
  scid: u16(0),
  pcid: u16(2),
  scs: u8(4),
  vfn: u16(8),
  nvq: u16(10),
  nvi: u16(12),
});

const ENTRIES_MAX = 127;

/** Secondary Controller List (CNS 15h): entries by rising identifier behind their count. */
const secondaryList = structure(4096, {
  count: u8(0),
  entries: list(nested(32, secondaryEntry), ENTRIES_MAX),
});

/** Secondary Controller State. */
const SCS = { offline: 0, online: 1 } as const;

export function primaryControllerData({ controllerId }: SubsystemPlace): Uint8Array<ArrayBuffer> {
  return primaryController.write({ cntlid: controllerId });
}

/** @param least the lowest identifier to tell of */
export function secondaryControllerData(
  { controllerId, secondaries }: SubsystemPlace,
  least: number,
): Uint8Array<ArrayBuffer> {
  const entries = secondaries
    .filter((secondary) => secondary.controllerId >= least)
    .slice(0, ENTRIES_MAX)
    .map((secondary) => ({
      scid: secondary.controllerId,
      pcid: controllerId,
      // All are told of; one whose function is in no VM is offline, as where SR-IOV's NumVFs leaves it out.
      scs: secondary.online ? SCS.online : SCS.offline,
      vfn: secondary.virtualFunction,
    }));
  return secondaryList.write({ count: entries.length, entries });
}
