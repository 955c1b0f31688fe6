/**
 * The tweak of XTS: an element of GF(2^128) = GF(2)[x] / (x^128 + x^7 + x^2 + x + 1), as four
 * 32-bit words, little endian (IEEE Std 1619-2007 section 5.2).
 * @module
 */

/** Writes the 128-bit little-endian form of a data-unit number (section 5.1) to `words[at..at+3]`. */
export function writeUnitNumber(words: Uint32Array, at: number, unit: number): void {
  words[at] = unit;
  words[at + 1] = unit / 0x1_0000_0000;
  words[at + 2] = 0;
  words[at + 3] = 0;
}

/**
 * Multiplies the element at `words[at..at+3]` by α^power in place, α = x. One step moves 32
 * positions; what leaves at the top comes back through x^128 = x^7 + x^2 + x + 1.
 */
export function multiplyByAlpha(words: Uint32Array, at: number, power: number): void {
  let a = words[at]!;
  let b = words[at + 1]!;
  let c = words[at + 2]!;
  let d = words[at + 3]!;
  let left = power;
  for (; left >= 32; left -= 32) {
    const out = d;
    d = c;
    c = b;
    b = a ^ (out >>> 31) ^ (out >>> 30) ^ (out >>> 25);
    a = out ^ (out << 1) ^ (out << 2) ^ (out << 7);
  }
  if (left > 0) {
    const back = 32 - left;
    const out = d >>> back;
    d = (d << left) | (c >>> back);
    c = (c << left) | (b >>> back);
    b = (b << left) | (a >>> back);
    a <<= left;
    a ^= out ^ (out << 1) ^ (out << 2) ^ (out << 7);
    // out has fewer than 32 bits, its product with 0x87 up to 38: the rest belongs to the next word.
    b ^= (out >>> 31) ^ (out >>> 30) ^ (out >>> 25);
  }
  words[at] = a;
  words[at + 1] = b;
  words[at + 2] = c;
  words[at + 3] = d;
}
