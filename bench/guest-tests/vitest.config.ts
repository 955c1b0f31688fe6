import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: { include: ['bench/guest-tests/*.timed.ts'], pool: 'forks', fileParallelism: false },
});
