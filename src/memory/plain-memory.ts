import type { AccessSlot } from '../keys/key-slot.ts';
import type { Gpa, GuestMemory, MemoryRun } from './guest-memory.ts';
import { MemoryError } from './guest-memory.ts';
import { type RamRegion, RamRegions } from './ram-regions.ts';

/** The bytes of a region that this process has mapped; a copy that fails throws. */
export interface RegionBytes {
  readInto(offset: number, into: Uint8Array): void;
  writeFrom(offset: number, from: Uint8Array): void;
}

/**
 * Guest memory that nothing encrypts: the baseline of every benchmark, and what is left without
 * /dev/fuse. The slot that the IOMMU resolved has been checked, and changes nothing here.
 */
export class PlainMemory implements GuestMemory {
  readonly mode = 'plain';
  readonly regions = new RamRegions<RegionBytes>();

  permits(direction: 'read' | 'write', address: Gpa, length: number): boolean {
    return this.regions.permits(direction, address, length);
  }

  /** Never: all of it is in the clear, whatever an access says. */
  crosses(): boolean {
    return false;
  }

  read(address: Gpa, _slot: AccessSlot, into: Uint8Array): void {
    for (let done = 0; done < into.length; ) {
      const region = this.#region(address + done);
      const offset = address + done - region.gpa;
      const length = Math.min(into.length - done, region.size - offset);
      const part = length === into.length ? into : into.subarray(done, done + length);
      try {
        region.backing.readInto(offset, part);
      } catch (error) {
        throw failed(error);
      }
      done += length;
    }
  }

  write(address: Gpa, _slot: AccessSlot, from: Uint8Array): void {
    for (let done = 0; done < from.length; ) {
      const region = this.#region(address + done);
      const offset = address + done - region.gpa;
      const length = Math.min(from.length - done, region.size - offset);
      const part = length === from.length ? from : from.subarray(done, done + length);
      try {
        region.backing.writeFrom(offset, part);
      } catch (error) {
        throw failed(error);
      }
      done += length;
    }
  }

  /**
   * Flips a bit (0 to 7) of the byte at `address`, which must be permitted, as an error of the memory cells
   * does. A store of a CPU to that byte at the same moment may be lost. @throws MemoryError
   */
  flipBit(address: Gpa, slot: AccessSlot, bit: number): void {
    const byte = new Uint8Array(1);
    this.read(address, slot, byte);
    byte[0] = (byte[0] ?? 0) ^ (1 << bit);
    this.write(address, slot, byte);
  }

  readBatch(runs: readonly MemoryRun[], count: number): void {
    for (let i = 0; i < count; i++) {
      const run = runs[i] as MemoryRun;
      run.failure = undefined;
      try {
        this.read(run.address, run.slot, bytesOf(run));
      } catch (error) {
        if (!(error instanceof MemoryError)) throw error;
        run.failure = error;
      }
    }
  }

  writeBatch(runs: readonly MemoryRun[], count: number): void {
    for (let i = 0; i < count; i++) {
      const run = runs[i] as MemoryRun;
      run.failure = undefined;
      try {
        this.write(run.address, run.slot, bytesOf(run));
      } catch (error) {
        if (!(error instanceof MemoryError)) throw error;
        run.failure = error;
      }
    }
  }

  #region(address: number): RamRegion<RegionBytes> {
    const region = this.regions.find(address);
    if (region !== undefined) return region;
    throw new MemoryError(`expected an address in guest RAM, got 0x${address.toString(16)}`);
  }
}

/** The run's own bytes; a view is made only where they are not all of the array. */
function bytesOf({ bytes, start, length }: MemoryRun): Uint8Array {
  return length === bytes.length ? bytes : bytes.subarray(start, start + length);
}

/** A VMM may take memory away under a mapping: that is its fault, and a machine check for the device. */
function failed(error: unknown): MemoryError {
  const got = error instanceof Error ? error.message : String(error);
  return new MemoryError(`expected the VMM's memory to answer, got ${got}`);
}
