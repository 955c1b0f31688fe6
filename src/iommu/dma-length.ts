/** Longest single access in bytes; bounds the segments one access may fall into. */
export const DMA_MAX_BYTES = 16 * 1024 * 1024;

/** @throws RangeError: a length that no access may have is the device's mistake */
export function checkLength(length: number): void {
  if (!Number.isInteger(length) || length < 1 || length > DMA_MAX_BYTES) {
    throw new RangeError(
      `expected a DMA of 1 to ${DMA_MAX_BYTES} bytes, got ${length}: split longer ones`,
    );
  }
}
