/** For known-bugs.test.ts alone: half of these tests are to fail. */
import { defineConfig } from 'vitest/config';
import { guestTests } from '../../../src/testkit/vitest-config.ts';

export default defineConfig({
  test: { ...guestTests, include: ['test/guest/driver-bugs/*.cases.ts'] },
});
