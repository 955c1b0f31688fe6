import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatRequesterId } from '../../../src/pci/requester-id.ts';
import { seedOf } from '../../../src/testkit/seed.ts';
import {
  checkOptions,
  type DriverTestOptions,
  devicePlaces,
  moduleSources,
} from '../../../src/testkit/test-options.ts';

const make = () => ({}) as never;
const places = (options: DriverTestOptions) =>
  devicePlaces(options).map(({ rid }) => formatRequesterId(rid));

describe('places of devices', () => {
  it('are 00:04.0 and those after it, past what is taken', () => {
    expect(places({})).toEqual([]);
    expect(places({ device: make, devices: [make] })).toEqual(['0000:00:04.0', '0000:00:05.0']);
    expect(places({ device: make, devices: [{ make, at: '00:05.0' }, make] })).toEqual([
      ...['0000:00:04.0', '0000:00:05.0', '0000:00:06.0'],
    ]);
    expect(places({ devices: [make, { make, at: '00:04.0' }] })).toEqual([
      ...['0000:00:05.0', '0000:00:04.0'],
    ]);
  });

  it('are each taken once', () => {
    const at = '00:06.0';
    expect(() =>
      places({
        devices: [
          { make, at },
          { make, at },
        ],
      }),
    ).toThrow(/free.*00:06\.0/);
    expect(() => places({ devices: [{ make, at: '00:03.0' }] })).toThrow(/00:03\.0/);
    expect(() => places({ devices: new Array(26).fill(make) })).toThrow(/at most 25/);
  });

  it('never collide', () => {
    const device = fc.option(fc.integer({ min: 4, max: 0x1c }), { nil: undefined });
    fc.assert(
      fc.property(fc.array(device, { maxLength: 12 }), (wanted) => {
        const given = wanted.filter((number) => number !== undefined);
        fc.pre(new Set(given).size === given.length);
        const devices = wanted.map((number) =>
          number === undefined ? { make } : { make, at: `00:${number.toString(16)}.0` },
        );
        const got = places({ devices });
        expect(new Set(got).size).toBe(wanted.length);
        expect(got.every((rid) => /^0000:00:(0[4-9a-f]|1[0-9a-c])\.0$/.test(rid))).toBe(true);
      }),
    );
  });
});

it('modules are given one by one or in order, by a path or with more', () => {
  expect(moduleSources({})).toEqual([]);
  expect(moduleSources({ module: 'a.c' })).toEqual([{ source: 'a.c' }]);
  const second = { source: 'b', load: false };
  expect(moduleSources({ module: ['a.c', second] })).toEqual([{ source: 'a.c' }, second]);
});

describe('options', () => {
  it('that are none are refused by their names', () => {
    expect(() => checkOptions({ modules: 'a.c' } as never)).toThrow(/module.*got modules/);
    expect(() => checkOptions({ device: class {} as never })).toThrow(/device: \(\) => new/);
    expect(() => checkOptions({ device: {} as never })).toThrow(/device: \(\) => new/);
    expect(() => checkOptions({ devices: [{}] as never })).toThrow(/devices/);
    expect(() => checkOptions({ files: { 'etc/motto': '' } })).toThrow(/absolute.*etc\/motto/);
    checkOptions({ device: make, devices: [make, { make }], files: { '/a': '' }, cpus: 1 });
  });
});

describe('the seed', () => {
  it('is the environment’s, else the test’s, else a random one', () => {
    expect(seedOf({ seed: 7 }, { SEALBUS_SEED: '0x1a2b3c4d' })).toBe(0x1a2b3c4d);
    expect(seedOf({ seed: 7 }, {})).toBe(7);
    expect(seedOf({ seed: 7n }, { SEALBUS_SEED: '' })).toBe(7);
    const seeds = new Set(Array.from({ length: 20 }, () => seedOf({}, {})));
    expect(seeds.size).toBeGreaterThan(15);
    expect([...seeds].every((seed) => seed >= 0 && seed < 2 ** 32)).toBe(true);
  });

  it.each(['seven', '-1', '0x100000000', '1.5'])('of 32 bits is not %s', (text) => {
    expect(() => seedOf({}, { SEALBUS_SEED: text })).toThrow(/32 bits.*SEALBUS_SEED=/);
  });
});
