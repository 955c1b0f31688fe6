import { randomInt } from 'node:crypto';
import type { DriverTestOptions } from './test-options.ts';

/** What the faults of a test are drawn from, 32 bits. @throws RangeError where it is none */
export function seedOf({ seed }: DriverTestOptions, env = process.env): number {
  const given = env.SEALBUS_SEED;
  const value = given ? Number(given) : Number(seed ?? randomInt(2 ** 32));
  if (Number.isInteger(value) && value >= 0 && value < 2 ** 32) return value;
  const where = given ? `SEALBUS_SEED=${given}` : `seed: ${seed}`;
  throw new RangeError(`expected a seed of 32 bits such as 0x1a2b3c4d, got ${where}`);
}
