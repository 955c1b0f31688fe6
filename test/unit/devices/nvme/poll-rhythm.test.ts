import { expect, it } from 'vitest';
import { PollRhythm } from '../../../../src/devices/nvme/poll-rhythm.ts';

const US = 1000;

it('a host that answers at once is looked out for without a pause', () => {
  const rhythm = new PollRhythm();
  for (let now = 0; now < 1000 * US; now += 40 * US) {
    rhythm.submitted(now);
    rhythm.interrupted(1, now);
    expect(rhythm.pauseNs(now)).toBe(0);
  }
});

it('one that took long to answer gets the core with its next interrupt, until it answers soon', () => {
  const rhythm = new PollRhythm();
  rhythm.interrupted(1, 0);
  rhythm.submitted(400 * US);
  rhythm.interrupted(1, 400 * US);
  expect(rhythm.pauseNs(400 * US)).toBeGreaterThan(0);
  expect(rhythm.pauseNs(401 * US)).toBe(0);
  rhythm.submitted(450 * US);
  rhythm.interrupted(1, 450 * US);
  expect(rhythm.pauseNs(450 * US)).toBe(0);
});

it('so does one that is interrupted for many, and one that is quiet', () => {
  const rhythm = new PollRhythm();
  rhythm.submitted(0);
  rhythm.interrupted(16, 0);
  expect(rhythm.pauseNs(0)).toBeGreaterThan(0);
  expect(rhythm.pauseNs(0)).toBe(0);
  expect(rhythm.pauseNs(300 * US)).toBeGreaterThan(0);
});
