import { type Comparison, compare } from './figures.ts';
import { benchXts, XTS_ROUNDS, type XtsResult, type XtsSizeResult } from './xts.ts';

const PEER =
  'C loop over EVP_CipherInit_ex and EVP_CipherUpdate, same libcrypto (bench/c/xts_loop.c)';
const BARS: Readonly<Record<number, { readonly atLeast: number }>> = {
  4096: { atLeast: 0.75 },
  65536: { atLeast: 0.9 },
};

/** The ratio on top is that at 4 KiB; throughputs, so more is better. */
export interface XtsComparison extends Comparison, Omit<XtsResult, 'sizes'> {
  readonly sizes: readonly (XtsSizeResult & Comparison)[];
}

/** @throws Error as benchXts */
export async function benchXtsBesideC(): Promise<XtsComparison> {
  const { sizes, ...about } = await benchXts();
  const compared = sizes.map((size) => {
    const bar = BARS[size.bytes];
    const options = { peer: PEER, rounds: XTS_ROUNDS, ...(bar === undefined ? {} : { bar }) };
    return { ...size, ...compare(size.ours_gib_s, size.c_gib_s, options) };
  });
  const { ratio, peer, bar, met, rounds } = compared.find((size) => size.bytes === 4096)!;
  return { ratio, peer, bar, met, rounds, ...about, sizes: compared };
}
