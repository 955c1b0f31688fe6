import { KEY_SLOTS, type KeySlot, keySlot } from '../keys/key-slot.ts';
import type { DmaDirection, FaultReason, Iova } from '../pci/dma-port.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { DmaMade } from './dma-faults.ts';
import { type ArmedFlip, type DramUnderTest, dramFaults, flip } from './dram-faults.ts';
import { type AnyArmed, type ArmedOf, faultOn } from './fault.ts';
import { FaultSite } from './fault-site.ts';
import { oneOf, optionalOneOf, requiredNumber } from './parameter.ts';

const REASONS = [
  ...['unmapped', 'no-read-permission', 'no-write-permission', 'bus-master-disabled'],
  ...['blocked-domain', 'no-device-table-entry', 'outside-memory', 'memory-failed'],
  ...['slot-empty', 'slot-not-active', 'slot-of-another-vm', 'slot-of-another-generation'],
] as readonly FaultReason[];

const fault = faultOn<DmaMade>();
const occasion = 'each DMA; of a batch each access';
const direction = optionalOneOf('one way alone', ['read', 'write']);

export const iommuFaults = {
  'dma.refuse': fault({
    says: 'The IOMMU refuses a DMA: no byte moves, and the device sees an abort.',
    occasion,
    parameters: { reason: oneOf('why', REASONS, 'unmapped'), direction },
  }),
  'dma.slot': fault({
    says: 'A DMA goes by another key slot than its own.',
    occasion,
    parameters: { slot: requiredNumber('the key slot, 0 to 4095', 0, KEY_SLOTS - 1), direction },
  }),
};

type ArmedIommuFault = ArmedOf<typeof iommuFaults> | ArmedFlip;

/** The DMA of one function on its way through the IOMMU. */
export class IommuSite extends FaultSite<ArmedIommuFault> {
  readonly #rid: RequesterId;
  readonly #dram: DramUnderTest;
  readonly #onActive: () => void;
  /** For the access that was asked about last. */
  #substitute: KeySlot | undefined;

  /** @param onActive hears when {@link wanted} may have changed */
  constructor(rid: RequesterId, dram: DramUnderTest, onActive: () => void) {
    super();
    this.#rid = rid;
    this.#dram = dram;
    this.#onActive = onActive;
  }

  /** Whether the IOMMU has to ask at all. */
  get wanted(): boolean {
    return this.faults.length > 0;
  }

  /** Once for each access, before {@link slot}. */
  refusal(direction: DmaDirection, iova: Iova, length: number): FaultReason | undefined {
    this.#substitute = undefined;
    const dma = { rid: this.#rid, direction, iova, length };
    let due: ArmedIommuFault | undefined;
    for (const fault of this.faults) {
      if (concerns(fault, direction) && fault.trigger.due(dma)) due ??= fault;
    }
    if (due === undefined) return undefined;
    const what = `${direction} of ${length} bytes at 0x${iova.toString(16)}`;
    switch (due.name) {
      case 'dma.refuse':
        due.struck(`${what} refused: ${due.parameters.reason}`);
        return due.parameters.reason;
      case 'dma.slot':
        due.struck(`${what} under slot ${due.parameters.slot}`);
        this.#substitute = keySlot(due.parameters.slot);
        return undefined;
      case 'dram.flip':
        flip(due, dma, this.#dram);
        return undefined;
    }
  }

  /** Once for each translation of the access. */
  slot(resolved: KeySlot): KeySlot {
    return this.#substitute ?? resolved;
  }

  protected override takes(fault: AnyArmed): fault is ArmedIommuFault {
    return fault.name in iommuFaults || fault.name in dramFaults;
  }

  protected override changed(): void {
    this.#onActive();
  }
}

function concerns(fault: ArmedIommuFault, direction: DmaDirection): boolean {
  if (fault.name === 'dram.flip') return direction === 'read';
  return fault.parameters.direction === undefined || fault.parameters.direction === direction;
}
