import fc from 'fast-check';
import { expect, test } from 'vitest';
import { qemuVersionMin } from '../../../src/setup/qemu.ts';
import { isAtLeast } from '../../../src/setup/version.ts';

test.each([
  ['10.1.1', true],
  ['10.1.2', true],
  ['10.2', true],
  ['11.1.3', true],
  ['10.1.0', false],
  ['10.1', false],
  ['9.9.9', false],
  ['7.2.22', false],
])('QEMU %s does: %s', (version, does) => {
  expect(isAtLeast(version, qemuVersionMin)).toBe(does);
});

test('versions order as their numbers do', () => {
  const numbers = fc.array(fc.nat(300), { minLength: 3, maxLength: 3 });
  fc.assert(
    fc.property(numbers, numbers, (a, b) => {
      const order = a[0]! - b[0]! || a[1]! - b[1]! || a[2]! - b[2]!;
      expect(isAtLeast(a.join('.'), b.join('.'))).toBe(order >= 0);
    }),
  );
});
