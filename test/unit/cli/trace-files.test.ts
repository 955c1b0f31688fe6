import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { takeTraces } from '../../../src/cli/trace-files.ts';
import { readTrace } from '../../../src/trace/index.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-traces-'));
  mkdirSync(join(directory, 'from'));
});
afterEach(() => rmSync(directory, { recursive: true }));

/** @param mark to know it by, in a field that is free to be anything */
function trace(name: string, epochMs: number, mark: number): void {
  const header = { kind: 'trace', version: 1, epochMs, memory: 'plain', dataBytesMax: mark };
  writeFileSync(join(directory, 'from', name), `${JSON.stringify(header)}\n`);
}

test('traces are taken in the order in which they began; those of the same millisecond in that of their numbers', () => {
  for (let n = 12; n >= 1; n--) trace(`machine-77-${n}.ndjson`, 5000, n);
  trace('machine-9-1.ndjson', 4000, 0);
  const taken = takeTraces(join(directory, 'from'), join(directory, 'all.ndjson'));
  expect(taken.map(({ path }) => readTrace(path).header.dataBytesMax)).toEqual([
    ...Array(13).keys(),
  ]);
  expect(taken.slice(0, 2).map(({ path }) => path)).toEqual([
    join(directory, 'all.ndjson'),
    join(directory, 'all-2.ndjson'),
  ]);
});
