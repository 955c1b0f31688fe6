const START_BYTES = 64 * 1024;
const DIGITS = Buffer.from('0123456789abcdef');
const QUOTE = 0x22;
const ZERO = 0x30;
const SMALL_X = 0x78;
/** Decimal digits of a number are made from two integers of 32 bits, which are quick. */
const HALF = 1_000_000_000;

/** Lines of text as bytes, put together without a string for each part: a register access is a line. */
export class LineBuffer {
  #bytes = new Uint8Array(START_BYTES);
  #length = 0;

  /** What is in it; holds until something is added. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  get length(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
  }

  text(words: string): void {
    // UTF-8 takes at most 3 bytes for a UTF-16 unit.
    this.#reserve(words.length * 3);
    const free = this.#bytes.subarray(this.#length);
    this.#length += encoder.encodeInto(words, free).written;
  }

  /** Text that has been encoded before. */
  encoded(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** @param value a whole number from 0 to 2^53 - 1 */
  decimal(value: number): void {
    this.#reserve(20);
    const high = Math.floor(value / HALF);
    const low = value - high * HALF;
    if (high > 0) this.#digits(high, digitsOf(high));
    this.#digits(low, high > 0 ? 9 : digitsOf(low));
  }

  /** `"0x1f"`, with its quotes, from two halves of which only the bits count. */
  quotedHex(low: number, high: number): void {
    this.#reserve(20);
    this.#bytes[this.#length++] = QUOTE;
    this.#bytes[this.#length++] = ZERO;
    this.#bytes[this.#length++] = SMALL_X;
    if (high !== 0) this.#nibbles(high, nibblesOf(high));
    this.#nibbles(low, high !== 0 ? 8 : nibblesOf(low));
    this.#bytes[this.#length++] = QUOTE;
  }

  #digits(value: number, count: number): void {
    let left = value;
    for (let at = this.#length + count - 1; at >= this.#length; at--) {
      const next = Math.trunc(left / 10);
      this.#bytes[at] = ZERO + left - next * 10;
      left = next;
    }
    this.#length += count;
  }

  #nibbles(value: number, count: number): void {
    for (let shift = (count - 1) * 4; shift >= 0; shift -= 4) {
      this.#bytes[this.#length++] = DIGITS[(value >>> shift) & 15] as number;
    }
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + count));
    grown.set(this.bytes);
    this.#bytes = grown;
  }
}

const encoder = new TextEncoder();

function digitsOf(value: number): number {
  let count = 1;
  for (let left = value; left >= 10; left /= 10) count++;
  return count;
}

function nibblesOf(value: number): number {
  return value === 0 ? 1 : 8 - (Math.clz32(value) >>> 2);
}
