/** `sealbus replay`: its exit codes, and what it says of a difference. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { Trace } from '../../../src/trace/trace.ts';
import { RunPlace, repository } from './sealbus.ts';

const place = new RunPlace();
let directory: string;
let trace: string;
let broken: string;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-replay-'));
  trace = join(directory, 'edu.ndjson');
  const recorder = new Trace({ dataBytesMax: Number.POSITIVE_INFINITY, sink: trace });
  await using vmm = await Vmm.host(new Edu(), { instruments: [recorder], log: () => {} });
  await vmm.bar0.write('liveness', 1);
  await vmm.bar0.read('liveness');
  await using second = await vmm.plug(new Edu());
  await second.bar0.read('identification');

  broken = join(directory, 'broken-edu.ts');
  writeFileSync(
    broken,
    `import { Edu } from '${repository}/src/devices/edu/edu.ts';
    export class BrokenEdu extends Edu {
      override readBar(bar: number, offset: number, into: Uint8Array) {
        super.readBar(bar, offset, into);
        if (offset === 4) into[0] = 0;
      }
    }\n`,
  );
});
afterEach(() => {
  expect(place.left).toEqual([]);
});
afterAll(() => {
  place[Symbol.dispose]();
  rmSync(directory, { recursive: true, force: true });
});

test('0 where the device does the same', async () => {
  const { code, stdout, stderr } = await place.run([
    ...['replay', trace, '--device', 'edu', '--rid', '00:05.0'],
  ]);
  expect(stderr).toBe('');
  expect(`${stdout}`).toMatch(/^00:05\.0 Edu: the same in \d+ accesses, resets and alarms\n$/);
  expect(code).toBe(0);
});

test('1 where it differs, with the line and the register', async () => {
  const { code, stdout } = await place.run([
    ...['replay', trace, '--device', `${broken}#BrokenEdu`, '--rid', '00:05.0'],
  ]);
  const lines = readFileSync(trace, 'utf8').split('\n');
  const line = lines.findIndex((text) => /"direction":"read".*"liveness"/.test(text)) + 1;
  expect(`${stdout}`).toContain(`${trace}:${line}: 00:05.0 Edu differs from the recording`);
  expect(`${stdout}`).toMatch(
    /expected {2}read liveness = 0xfffffffe\n {2}got {7}read liveness = 0xffffff00\n/,
  );
  expect(code).toBe(1);

  const json = await place.run([
    ...['replay', trace, '--device', broken, '--rid', '00:05.0', '--json'],
  ]);
  expect(JSON.parse(`${json.stdout}`)).toMatchObject({
    ...{ rid: '00:05.0', device: 'Edu', same: false, cut: false },
    difference: { line, expected: 'read liveness = 0xfffffffe' },
  });
  expect(json.code).toBe(1);
});

test('2 where trace and device do not fit together, and why is on stderr', async () => {
  const half = join(directory, 'half.ndjson');
  writeFileSync(half, '{"kind":"trace"\n');
  for (const [args, words] of [
    [[trace, '--device', 'edu'], /several that it may be: 00:05\.0 Edu, 00:06\.0 Edu/],
    [[trace, '--device', 'edu', '--rid', '00:1e.0'], /expected function 00:1e\.0/],
    [[trace, '--device', 'edu', '--rid', 'there'], /requester ID/],
    [[trace, '--device', join(directory, 'none.ts')], /no such file/],
    [[trace], /expected --device/],
    [[join(directory, 'none.ndjson'), '--device', 'edu'], /none\.ndjson/],
    [[half, '--device', 'edu'], /half\.ndjson:1/],
  ] as const) {
    const { code, stdout, stderr } = await place.run(['replay', ...args]);
    expect(stderr).toMatch(words);
    expect(`${stdout}`).toBe('');
    expect(code).toBe(2);
  }
});
