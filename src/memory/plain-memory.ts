import { copyFromAddress, copyToAddress } from '../ffi/libc.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import type { Gpa, GuestMemory } from './guest-memory.ts';
import { MemoryError } from './guest-memory.ts';
import { RamRegions } from './ram-regions.ts';

/**
 * Guest memory that nothing encrypts: the baseline of every benchmark, and what is left without
 * /dev/fuse. A region's base is the native address of its mapping in this process.
 *
 * Bytes are copied by address: no view of a region exists, so none can outlive its mapping.
 * A region is removed before it is unmapped, on the same thread that copies.
 */
export class PlainMemory implements GuestMemory {
  readonly mode = 'plain';
  readonly regions = new RamRegions();

  permits(direction: 'read' | 'write', address: Gpa, length: number): boolean {
    return this.regions.permits(direction, address, length);
  }

  read(address: Gpa, _slot: KeySlot, into: Uint8Array): void {
    const region = this.regions.find(address);
    if (region === undefined) throw outside(address);
    const inside = address - region.gpa;
    if (inside + into.length <= region.size) {
      copyFromAddress(into, region.base + inside);
      return;
    }
    const bytes = region.size - inside;
    copyFromAddress(into, region.base + inside, bytes);
    this.read((address + bytes) as Gpa, _slot, into.subarray(bytes));
  }

  write(address: Gpa, _slot: KeySlot, from: Uint8Array): void {
    const region = this.regions.find(address);
    if (region === undefined) throw outside(address);
    const inside = address - region.gpa;
    if (inside + from.length <= region.size) {
      copyToAddress(region.base + inside, from);
      return;
    }
    const bytes = region.size - inside;
    copyToAddress(region.base + inside, from, bytes);
    this.write((address + bytes) as Gpa, _slot, from.subarray(bytes));
  }
}

function outside(address: number): MemoryError {
  return new MemoryError(`expected an address in guest RAM, got 0x${address.toString(16)}`);
}
