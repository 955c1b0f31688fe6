import { defineConfig } from 'vitest/config';

const shared = { environment: 'node' as const, passWithNoTests: false };

/** Three levels: units (milliseconds), protocol (a server over its socket), guest (a real QEMU). */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          ...shared,
          name: 'unit',
          include: ['test/unit/**/*.test.ts'],
          // On a quiet host none takes three seconds; the bound is for a busy one.
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          ...shared,
          name: 'protocol',
          include: ['test/protocol/**/*.test.ts'],
          pool: 'forks',
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          ...shared,
          name: 'guest',
          include: ['test/guest/**/*.test.ts'],
          pool: 'forks',
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
