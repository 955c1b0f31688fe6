/**
 * n! modulo 2^32, as edu's 32-bit register holds it.
 *
 * From 34! on the product has 32 factors of two, so that the register reads 0: no guest can keep
 * the device computing.
 */
export function factorial32(n: number): number {
  if (n >= 34) return 0;
  let product = 1;
  for (let factor = 2; factor <= n; factor++) product = Math.imul(product, factor);
  return product >>> 0;
}
