import { guestTests } from 'sealbus/vitest-config';
import { defineConfig } from 'vitest/config';

/** guestTests: a process for each file, one after the other, and time for a guest to boot. */
export default defineConfig({ test: { ...guestTests, include: ['test/**/*.test.ts'] } });
