import { describe, expect, it } from 'vitest';
import { RandomStream, SplitMix64 } from '../../../src/faults/random-stream.ts';

describe('the numbers', () => {
  // Both as the authors' C code gives them (prng.di.unimi.it: splitmix64.c, xoshiro128starstar.c).
  it('of SplitMix64 are its own', () => {
    const source = new SplitMix64(1234567n);
    expect([1, 2, 3, 4, 5].map(() => source.next())).toEqual([
      6457827717110365317n,
      3203168211198807973n,
      9817491932198370423n,
      4593380528125082431n,
      16408922859458223821n,
    ]);
  });

  it('of xoshiro128** are its own', () => {
    const stream = new RandomStream([0x964d_4a0c, 0xd40a_b895, 0xad7f_decb, 0x3006_f0f0]);
    expect([1, 2, 3, 4, 5, 6].map(() => stream.next())).toEqual([
      ...[0xf139_1922, 0x6fe5_3806, 0xa5be_2840, 0xf510_ee70, 0x099e_5ab5, 0x7870_bc16],
    ]);
  });
});

describe('a stream', () => {
  const first = (stream: RandomStream) => [1, 2, 3, 4].map(() => stream.next()).join();

  it('is the same for the same seed and path, and another for any other', () => {
    const streams = [
      ...[RandomStream.of(1), RandomStream.of(2), RandomStream.of(1, 0), RandomStream.of(1, 1)],
      ...[RandomStream.of(2, 0), RandomStream.of(1, 0, 0), RandomStream.of(1, 0, 32)],
      ...[RandomStream.of(1, 32, 0), RandomStream.of(0), RandomStream.of(0, 0)],
    ];
    expect(new Set(streams.map(first)).size).toBe(streams.length);
    expect(first(RandomStream.of(7, 3, 32))).toBe(first(RandomStream.of(7, 3, 32)));
  });

  it('is true as often as its probability says, within five standard deviations', () => {
    for (const [seed, probability] of [0.001, 0.1, 0.5, 0.9].entries()) {
      const stream = RandomStream.of(seed);
      const draws = 100_000;
      let hits = 0;
      for (let n = 0; n < draws; n++) if (stream.chance(probability)) hits++;
      const deviation = Math.sqrt(draws * probability * (1 - probability));
      expect(Math.abs(hits - draws * probability)).toBeLessThan(5 * deviation);
    }
  });

  it('is never true at 0, always at 1', () => {
    const stream = RandomStream.of(5);
    for (let n = 0; n < 10_000; n++) {
      expect([stream.chance(0), stream.chance(1)]).toEqual([false, true]);
    }
  });

  it('gives each number below a bound about as often, and none other', () => {
    const stream = RandomStream.of(9);
    const counts = new Array<number>(7).fill(0);
    for (let n = 0; n < 70_000; n++) {
      const value = stream.below(7);
      counts[value] = (counts[value] ?? 0) + 1;
    }
    expect(counts).toHaveLength(7);
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(5 * 93);
  });
});
