import {
  copyFromAddress,
  copyToAddress,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../../../src/ffi/libc.ts';
import type { SlotDirectory, SlotUse } from '../../../src/iommu/slot-directory.ts';
import type { KeySlot } from '../../../src/keys/key-slot.ts';
import { type VmId, vmId } from '../../../src/keys/vm-id.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { PlainMemory } from '../../../src/memory/plain-memory.ts';

/** Plain memory over native pages that live as long as the test's process. */
export function nativeMemory(bytes: number): { memory: PlainMemory; bytes: Uint8Array } {
  const base = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  const memory = new PlainMemory();
  memory.regions.add({
    gpa: gpa(0),
    size: bytes,
    readable: true,
    writable: true,
    backing: {
      readInto: (offset, into) => copyFromAddress(into, base + offset),
      writeFrom: (offset, from) => copyToAddress(base + offset, from),
    },
  });
  return { memory, bytes: viewOfAddress(base, bytes) };
}

/**
 * Slot 1 is VM 1's and active, slot 2 is VM 2's and active, slot 3 is VM 1's and revoked; their keys are of
 * generation 10, 20 and 30, and of slot 1 the present life began with generation 9.
 */
export class FourSlots implements SlotDirectory {
  use(slot: KeySlot): SlotUse {
    return slot === 1 || slot === 2 ? 'active' : slot === 3 ? 'not-active' : 'empty';
  }

  vm(slot: KeySlot): VmId | undefined {
    return slot === 1 || slot === 3 ? vmId(1) : slot === 2 ? vmId(2) : undefined;
  }

  generation(slot: KeySlot): number {
    return slot >= 1 && slot <= 3 ? slot * 10 : 0;
  }

  since(slot: KeySlot): number {
    return slot === 1 ? 9 : this.generation(slot);
  }
}
