import type { AccessSlot } from '../keys/key-slot.ts';
import { type Gpa, gpa } from '../memory/guest-memory.ts';
import type { DmaDirection } from '../pci/dma-port.ts';

/** What a device may do; a device-table entry and a domain each name theirs, both must allow. */
export type Rights = 'none' | 'read' | 'write' | 'read-write';

export function allows(rights: Rights, direction: DmaDirection): boolean {
  return rights === 'read-write' || rights === direction;
}

/** Why a domain has no translation to give. */
export type TranslationFault =
  | 'blocked-domain'
  | 'unmapped'
  | 'no-read-permission'
  | 'no-write-permission';

/**
 * The answer to one look-up, filled in by the domain so that a look-up allocates nothing.
 * Valid until the next look-up with the same object.
 */
export interface Translation {
  address: Gpa;
  /** How many bytes from the asked IOVA on the answer covers; at least 1. */
  length: number;
  rights: Rights;
  /**
   * The slot that sits in the translation entry, where one does (claims 5 and 7). It is asked for, or must
   * not be there, as the function's device-table entry says. IN_CLEAR is no slot, and may always be there:
   * it is the entry's C-bit, clear.
   */
  slot: AccessSlot | undefined;
  /** Of that slot, when the entry was made: as in a device-table entry. */
  generation: number | undefined;
}

/** One to be filled in by look-ups. */
export function newTranslation(): Translation {
  return { address: gpa(0), length: 0, rights: 'none', slot: undefined, generation: undefined };
}

/**
 * IOVA → GPA with rights (VT-d, AMD-Vi; virtio-iommu §5.13). Several functions may share a domain.
 */
export interface Domain {
  /** Names the domain in faults and tags its lines in the IOTLB; unique in one IOMMU. */
  readonly id: number;
  /**
   * Whether the IOTLB may keep the answers: such a domain maps whole 4 KiB pages, and whoever
   * changes it invalidates.
   */
  readonly cacheable: boolean;
  /**
   * Looks `iova` up. Fills `into` and answers undefined, or answers why there is no translation.
   * Rights are in the answer: checking them is the IOMMU's.
   */
  translate(iova: number, into: Translation): TranslationFault | undefined;
}

/** IOVA is GPA, over the whole address width: a function without a guest-programmed IOMMU. */
export class IdentityDomain implements Domain {
  readonly id: number;
  readonly cacheable = false;
  readonly rights: Rights;

  constructor(id: number, rights: Rights = 'read-write') {
    this.id = id;
    this.rights = rights;
  }

  translate(iova: number, into: Translation): undefined {
    into.address = iova as Gpa;
    into.length = Number.MAX_SAFE_INTEGER - iova + 1;
    into.rights = this.rights;
    into.slot = undefined;
    into.generation = undefined;
    return undefined;
  }
}

/** Nothing translates: where a function stands until something lets it in. */
export class BlockedDomain implements Domain {
  readonly id: number;
  readonly cacheable = false;

  constructor(id: number) {
    this.id = id;
  }

  translate(): TranslationFault {
    return 'blocked-domain';
  }
}
