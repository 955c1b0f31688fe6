import { type Iova, iovaOf } from '../../../pci/index.ts';
import { iovaPlus } from '../iova.ts';
import { Status } from '../status.ts';
import { FETCH, type PointerStep } from './pointer-step.ts';
import type { Segments } from './segments.ts';

/**
 * What Identify Controller's SGLS says of this (NVMe 1.4 Figure 247): SGLs without any alignment
 * (bits 1:0 = 01b), bit buckets (bit 16), lengths beyond the data (bit 18).
 */
export const SGL_SUPPORT = 0x0005_0001;

const DESCRIPTOR_BYTES = 16;
/** Descriptors read at once. */
export const DESCRIPTORS_AT_ONCE = 128;
/** Of one command: 1 MiB in pieces of 512 bytes takes 2048. */
const DESCRIPTORS_MAX = 4096;
/** Segments of one command: what bounds a chain that bites its tail. */
const SEGMENTS_MAX = 64;

/** SGL descriptor types, NVMe 1.4 Figure 112; the lower half of the byte is the sub-type. */
const TYPE = { dataBlock: 0x00, bitBucket: 0x10, segment: 0x20, lastSegment: 0x30 } as const;

/** Scatter gather lists, NVMe 1.4 §4.4. */
export class SglWalk {
  readonly #segments: Segments;
  #left = 0;
  #toHost = false;
  /** Descriptors of the segment that have not been read. */
  #rest = 0;
  #reading = 0;
  #last = false;
  #descriptors = 0;
  #hops = 0;
  /** The descriptors that are wanted next. */
  iova: Iova = 0;

  constructor(segments: Segments) {
    this.#segments = segments;
  }

  /** Bytes of descriptors at {@link iova} that are wanted. */
  get wanted(): number {
    return this.#reading * DESCRIPTOR_BYTES;
  }

  /** @param words the command's 16 dwords: SGL1 is in 6 to 9 */
  begin(words: Uint32Array, length: number, toHost: boolean): PointerStep {
    this.#left = length;
    this.#toHost = toHost;
    this.#descriptors = 0;
    this.#hops = 0;
    const type = (words[9] as number) >>> 24;
    if (type === TYPE.segment || type === TYPE.lastSegment) return this.#follow(words, 6);
    const step = this.#place(words, 6);
    if (step !== Status.success) return step;
    return this.#left === 0 ? Status.success : Status.sglDataLengthInvalid;
  }

  /** Goes on with the descriptors that were wanted. */
  next(list: Uint32Array): PointerStep {
    const count = this.#reading;
    this.#rest -= count;
    this.#descriptors += count;
    for (let at = 0; at < count; at++) {
      const type = (list[4 * at + 3] as number) >>> 24;
      if (type === TYPE.segment || type === TYPE.lastSegment) {
        const atEnd = at === count - 1 && this.#rest === 0;
        if (this.#last || !atEnd) return Status.invalidSglSegmentDescriptor;
        return this.#follow(list, 4 * at);
      }
      const step = this.#place(list, 4 * at);
      if (step !== Status.success) return step;
      // What the host describes beyond the data is no concern of the transfer.
      if (this.#left === 0) return Status.success;
    }
    if (this.#rest > 0) {
      this.iova = iovaPlus(this.iova, count * DESCRIPTOR_BYTES);
      return this.#read();
    }
    // A segment that is not the last has to say where the next one is.
    return this.#last ? Status.sglDataLengthInvalid : Status.invalidSglSegmentDescriptor;
  }

  /** A segment or last segment descriptor: goes there. */
  #follow(words: Uint32Array, at: number): PointerStep {
    const length = words[at + 2] as number;
    if (length === 0 || length % DESCRIPTOR_BYTES !== 0) return Status.invalidSglSegmentDescriptor;
    if (++this.#hops > SEGMENTS_MAX) return Status.invalidSglDescriptorCount;
    this.#last = (words[at + 3] as number) >>> 24 === TYPE.lastSegment;
    this.#rest = length / DESCRIPTOR_BYTES;
    this.iova = iovaOf(words[at] as number, words[at + 1] as number);
    return this.#read();
  }

  #read(): PointerStep {
    this.#reading = Math.min(this.#rest, DESCRIPTORS_AT_ONCE);
    if (this.#descriptors + this.#reading > DESCRIPTORS_MAX)
      return Status.invalidSglDescriptorCount;
    return FETCH;
  }

  /** A descriptor of data. */
  #place(words: Uint32Array, at: number): Status {
    const length = words[at + 2] as number;
    switch ((words[at + 3] as number) >>> 24) {
      case TYPE.dataBlock: {
        const part = Math.min(length, this.#left);
        if (part > 0) {
          this.#segments.add(iovaOf(words[at] as number, words[at + 1] as number), part);
        }
        this.#left -= part;
        return Status.success;
      }
      case TYPE.bitBucket: {
        // Where the host is the source, a bit bucket has no length (§4.4).
        const part = this.#toHost ? Math.min(length, this.#left) : 0;
        this.#segments.skip(part);
        this.#left -= part;
        return Status.success;
      }
      default:
        return Status.sglDescriptorTypeInvalid;
    }
  }
}
