/** A benchmark that is interrupted while its image is made: nothing goes on, and nothing is left. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { debianImageForTests } from '../../../src/testkit/debian-image.ts';

let scratch: string;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'sealbus-testkit-'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(scratch, { recursive: true, force: true });
});

it('ends with the signal’s reason, and leaves neither an image nor a copy', async () => {
  // A cache of its own, where no image is yet.
  vi.stubEnv('XDG_CACHE_HOME', join(scratch, 'cache'));
  const directory = join(scratch, 'copies');
  mkdirSync(directory);
  const interrupted = new Error('interrupted');
  const signal = AbortSignal.abort(interrupted);
  await expect(debianImageForTests({ directory, signal })).rejects.toBe(interrupted);
  expect(readdirSync(directory)).toEqual([]);
  expect(readdirSync(join(scratch, 'cache/sealbus/guest/debian-for-tests'))).toEqual(['lock']);
});
