/** Driver tests in vitest: docs/driver-tests.md. */
import { expect } from 'vitest';
import { deviceMatchers } from './matchers/index.ts';

export { describe } from 'vitest';
export { type DriverFixtures, type DriverTest, test, test as it } from './driver-test.ts';
export type { CommandOptions, CommandOutcome, GuestConsole, TestGuest } from './test-guest.ts';
export type { DriverTestOptions } from './test-options.ts';
export { expect };

expect.extend(deviceMatchers);
