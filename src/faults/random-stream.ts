/**
 * Numbers to draw faults by: xoshiro128** (Blackman and Vigna, "Scrambled linear pseudorandom number
 * generators", ACM TOMS 47/4, 2021), its state filled by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014),
 * as its authors advise. The same seed and path give the same numbers on every machine.
 */
export class RandomStream {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  /** @param state four words of 32 bits, not all 0 */
  constructor(state: readonly [number, number, number, number]) {
    [this.#a, this.#b, this.#c, this.#d] = state;
  }

  /** A stream of its own for each seed and each path of whole numbers. */
  static of(seed: number, ...path: readonly number[]): RandomStream {
    let origin = BigInt(seed);
    for (const step of path) origin = new SplitMix64(origin).next() ^ BigInt(step);
    const source = new SplitMix64(origin);
    const [first, second] = [source.next(), source.next()];
    const word = (value: bigint) => Number(BigInt.asUintN(32, value));
    return new RandomStream([word(first), word(first >> 32n), word(second), word(second >> 32n)]);
  }

  /** 32 random bits. */
  next(): number {
    const result = Math.imul(rotl(Math.imul(this.#b, 5), 7), 9) >>> 0;
    const t = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= t;
    this.#d = rotl(this.#d, 11);
    return result;
  }

  /** True with this probability, from 0 (never) to 1 (always); one number is drawn. */
  chance(probability: number): boolean {
    return this.next() < probability * 2 ** 32;
  }

  /** From 0 to `count` - 1, each as likely to 2^-32 of it. */
  below(count: number): number {
    return Math.floor((this.next() / 2 ** 32) * count);
  }
}

/** Its state moves on by a constant, so every 64-bit number is a seed like any other. */
export class SplitMix64 {
  #state: bigint;

  constructor(seed: bigint) {
    this.#state = BigInt.asUintN(64, seed);
  }

  next(): bigint {
    this.#state = BigInt.asUintN(64, this.#state + 0x9e37_79b9_7f4a_7c15n);
    let z = this.#state;
    z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58_476d_1ce4_e5b9n);
    z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d0_49bb_1331_11ebn);
    return z ^ (z >> 31n);
  }
}

function rotl(word: number, by: number): number {
  return (word << by) | (word >>> (32 - by));
}
