/**
 * The guest memory that a client maps into the server: what libvfio-user keeps, and what the rest of
 * sealbus sees of it.
 *
 * No view of such memory ever exists. libvfio-user unmaps a region itself, in the middle of
 * vfu_run_ctx, and an ArrayBuffer over it could not be taken back from whoever holds one. Copies
 * go by address through memcpy instead: 50 ns more than Uint8Array.set for 4 KiB (measured: 128
 * against 78), and after the unmapping a region refuses.
 */
import { copyChecked, copyFromAddress, copyToAddress } from '../ffi/libc.ts';
import type { VfuDmaInfo } from './libvfio-user.ts';

/** libvfio-user's MAX_DMA_REGIONS. */
export const DMA_REGIONS_MAX = 16;

/** The file behind a region. */
export interface DmaRegionFile {
  readonly device: bigint;
  readonly inode: bigint;
  /** Of the region's first byte in the file. */
  readonly offset: number;
  /** True for a memfd sealed against shrinking: the mapping can never lose its memory. */
  readonly fixedSize: boolean;
}

/** What a client asked for, as the guard checked it. */
export interface DmaMapRequest {
  readonly gpa: number;
  readonly size: number;
  readonly file: DmaRegionFile | undefined;
}

export interface DmaRegion {
  /** Guest-physical address of the first byte, page-aligned. */
  readonly gpa: number;
  /** Bytes, a multiple of the page. */
  readonly size: number;
  readonly readable: boolean;
  readonly writable: boolean;
  /** Of the mapping in this process, 0 if none. Valid from map() until unmap() returns. */
  readonly address: number;
  readonly file?: DmaRegionFile;
  /** False from the end of unmap() on. */
  readonly live: boolean;
  /** Copies `into.length` bytes at `offset` of the region. @throws RangeError, SystemError */
  readInto(offset: number, into: Uint8Array): void;
  /** Copies all of `from` to `offset` of the region. @throws RangeError, SystemError */
  writeFrom(offset: number, from: Uint8Array): void;
}

export interface RegionListener {
  map(region: DmaRegion): void;
  /** The last moment at which the region's address may be used is before this returns. */
  unmap(region: DmaRegion): void;
}

class MappedRegion implements DmaRegion {
  readonly gpa: number;
  readonly size: number;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly address: number;
  readonly file?: DmaRegionFile;
  #live = true;

  constructor(info: VfuDmaInfo, file: DmaRegionFile | undefined) {
    this.gpa = info.iova;
    this.size = info.size;
    this.readable = info.readable;
    this.writable = info.writable;
    this.address = info.address;
    if (file !== undefined) this.file = file;
  }

  get live(): boolean {
    return this.#live;
  }

  readInto(offset: number, into: Uint8Array): void {
    this.#check(offset, into.length, this.readable, 'readable');
    if (this.file?.fixedSize === true) copyFromAddress(into, this.address + offset);
    else copyChecked('read', this.address + offset, into);
  }

  writeFrom(offset: number, from: Uint8Array): void {
    this.#check(offset, from.length, this.writable, 'writable');
    if (this.file?.fixedSize === true) copyToAddress(this.address + offset, from);
    else copyChecked('write', this.address + offset, from);
  }

  end(): void {
    this.#live = false;
  }

  #check(offset: number, length: number, allowed: boolean, what: string): void {
    // Written so that NaN fails too.
    if (!(offset >= 0 && offset + length <= this.size) || !Number.isInteger(offset)) {
      throw new RangeError(
        `expected a range inside the region's ${this.size} bytes, got ${length} at ${offset}`,
      );
    }
    if (!this.#live || this.address === 0 || !allowed) {
      const state = this.#live ? (this.address === 0 ? 'not mapped here' : `not ${what}`) : 'gone';
      throw new RangeError(`expected a live, ${what} DMA region, this one is ${state}`);
    }
  }
}

export class DmaRegions {
  readonly #regions = new Map<number, MappedRegion>();
  readonly #listener: RegionListener | undefined;
  #requested: DmaMapRequest | undefined;

  constructor(listener: RegionListener | undefined) {
    this.#listener = listener;
  }

  get all(): readonly DmaRegion[] {
    return [...this.#regions.values()];
  }

  get full(): boolean {
    return this.#regions.size >= DMA_REGIONS_MAX;
  }

  overlaps(gpa: number, size: number): boolean {
    for (const region of this.#regions.values()) {
      if (gpa < region.gpa + region.size && region.gpa < gpa + size) return true;
    }
    return false;
  }

  has(gpa: number, size: number): boolean {
    return this.#regions.get(gpa)?.size === size;
  }

  /** The guard lets a map message through: the library's callback for it comes next. */
  requested(request: DmaMapRequest): void {
    this.#requested = request;
  }

  mapped(info: VfuDmaInfo): void {
    const request = this.#requested;
    this.#requested = undefined;
    const file =
      request?.gpa === info.iova && request.size === info.size ? request.file : undefined;
    const region = new MappedRegion(info, file);
    this.#regions.set(region.gpa, region);
    this.#listener?.map(region);
  }

  /** Called before the library unmaps. */
  unmapping(info: VfuDmaInfo): void {
    const region = this.#regions.get(info.iova);
    if (region === undefined) return;
    this.#regions.delete(info.iova);
    try {
      this.#listener?.unmap(region);
    } finally {
      region.end();
    }
  }
}
