const BLOCK = 16;

/** How many blocks of 16 bytes of `two` are somewhere in `one`. Blocks of zeros, which nobody wrote, do not count. */
export function equalBlocks(one: Uint8Array, two: Uint8Array): number {
  const known = new Set(blocksOf(one));
  let equal = 0;
  for (const block of blocksOf(two)) if (known.has(block)) equal++;
  return equal;
}

function* blocksOf(bytes: Uint8Array): Generator<string> {
  for (let at = 0; at + BLOCK <= bytes.length; at += BLOCK) {
    const block = Buffer.from(bytes.subarray(at, at + BLOCK)).toString('latin1');
    if (!/^\0+$/.test(block)) yield block;
  }
}
