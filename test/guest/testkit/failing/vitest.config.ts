import { defineConfig } from 'vitest/config';

/** Files whose tests are to fail: failures.test.ts runs them, and looks at what came of it. */
export default defineConfig({
  test: {
    include: ['test/guest/testkit/failing/*.failing.ts'],
    pool: 'forks',
    fileParallelism: false,
  },
});
