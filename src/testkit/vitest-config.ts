/**
 * vitest's settings for guest tests: what `sealbus test` takes in a project that has no configuration of
 * its own, and what one that has spreads into its `test` field.
 */
import { defineConfig } from 'vitest/config';

export const guestTests = {
  environment: 'node',
  /** Devices, QEMU and FUSE want a process of their own, which can be ended whatever a test did to it. */
  pool: 'forks',
  /** A guest has two virtual CPUs: two files at once would only slow each other down. */
  fileParallelism: false,
  /** One that finds no test was called wrongly, or lost its tests. */
  passWithNoTests: false,
  /** Under TCG a guest boots in two to four seconds, and several times that on a busy host. */
  testTimeout: 120_000,
  hookTimeout: 120_000,
} as const;

export default defineConfig({ test: guestTests });
