import fc from 'fast-check';
import { expect, test } from 'vitest';
import { rotationDuty } from '../../../src/keys/rotation-duty.ts';

test('a duty is 5 to 100 percent, in whole numbers', () => {
  fc.assert(
    fc.property(fc.oneof(fc.integer({ min: -10, max: 120 }), fc.double()), (percent) => {
      const isOne = Number.isInteger(percent) && percent >= 5 && percent <= 100;
      if (isOne) expect(rotationDuty(percent)).toBe(percent);
      else expect(() => rotationDuty(percent)).toThrow(/expected a duty of 5 to 100 percent/);
    }),
  );
});
