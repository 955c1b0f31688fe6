import { expect, test } from 'vitest';
import { ManualClock, systemClock } from '../../../src/pci/clock.ts';

test.each([-1, 1_000_001, Number.NaN, Number.POSITIVE_INFINITY])(
  'a pause of %d nanoseconds is refused: it would hold up all others',
  (ns) => {
    // The manual clock first: a pause without end on the other could not be told.
    expect(() => new ManualClock().pause(ns)).toThrow(RangeError);
    expect(() => systemClock.pause(ns)).toThrow(RangeError);
  },
);
