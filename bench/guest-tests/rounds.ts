/** How the benchmark tells its tests the number of rounds that count. */
export const roundsVariable = 'SEALBUS_BENCH_ROUNDS';

export function roundsOf(env: Readonly<Record<string, string | undefined>>): number {
  return Number(env[roundsVariable] ?? 1);
}
