import { availableParallelism } from 'node:os';
import { expect, test } from 'vitest';
import { allowedCores, coresOf } from '../../../bench/placement.ts';

test('a list of cores is read with its ranges', () => {
  expect(coresOf('0')).toEqual([0]);
  expect(coresOf('0-2,5,7-8')).toEqual([0, 1, 2, 5, 7, 8]);
});

test('the cores of this process are as many as it may run on', () => {
  expect(coresOf(allowedCores()).length).toBeGreaterThanOrEqual(availableParallelism());
});
