import type { PluggedFunction } from '../machine/machine.ts';

const PAGE_BYTES = 4096;
const CHUNK_BYTES = 256 * 1024;

/** Where something was found: a page of guest memory. */
export interface FoundPage {
  readonly gpa: number;
}

/** How often `needle` occurs in `bytes`; occurrences do not overlap. */
export function countOccurrences(bytes: Uint8Array, needle: Uint8Array): number {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let count = 0;
  for (let at = buffer.indexOf(needle); at >= 0; at = buffer.indexOf(needle, at + needle.length)) {
    count++;
  }
  return count;
}

/**
 * Reads all guest memory through a function's DMA port, as the device with its key slot sees it, and
 * hands out chunk by chunk: the address and the bytes, which are good until the next one.
 */
export function* throughKeySlot(
  plugged: PluggedFunction,
): Generator<{ readonly gpa: number; readonly bytes: Uint8Array }> {
  const chunk = new Uint8Array(CHUNK_BYTES);
  for (const region of plugged.memory.regions.all) {
    if (!region.readable) continue;
    for (let at = 0; at < region.size; at += CHUNK_BYTES) {
      const bytes = chunk.subarray(0, Math.min(CHUNK_BYTES, region.size - at));
      plugged.port.readInto(region.gpa + at, bytes);
      yield { gpa: region.gpa + at, bytes };
    }
  }
}

/** Looks for whole pages of known content among the pages of guest memory. */
export class PageFinder {
  readonly #wanted: readonly Buffer[];
  /** Pages by their first bytes, which is enough to rule nearly all others out. */
  readonly #byStart = new Map<string, number[]>();
  readonly found: (FoundPage | undefined)[];

  /** @param content is cut into pages; a last part of one is left out. */
  constructor(content: Uint8Array) {
    const whole = Math.floor(content.length / PAGE_BYTES);
    this.#wanted = Array.from({ length: whole }, (_, index) =>
      Buffer.from(content.buffer, content.byteOffset + index * PAGE_BYTES, PAGE_BYTES),
    );
    this.found = new Array<FoundPage | undefined>(whole).fill(undefined);
    for (const [index, page] of this.#wanted.entries()) {
      const start = startOf(page);
      this.#byStart.set(start, [...(this.#byStart.get(start) ?? []), index]);
    }
  }

  /** @param bytes whole pages from `gpa` on. */
  look(gpa: number, bytes: Uint8Array): void {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0; at + PAGE_BYTES <= buffer.length; at += PAGE_BYTES) {
      const page = buffer.subarray(at, at + PAGE_BYTES);
      const candidates = this.#byStart.get(startOf(page));
      const index = candidates?.find(
        (candidate) => !this.found[candidate] && this.#wanted[candidate]?.equals(page),
      );
      if (index !== undefined) this.found[index] = { gpa: gpa + at };
    }
  }
}

function startOf(page: Buffer): string {
  return page.toString('latin1', 0, 24);
}
