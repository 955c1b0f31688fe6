import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { describe, expect, test } from 'vitest';
import { parseRange, rangesText } from '../../../src/cli/commands/bind.ts';
import { parsePageAddress, parsePageBytes, sharedText } from '../../../src/cli/commands/share.ts';
import { makeDevices, parseDevice } from '../../../src/cli/device-choice.ts';
import { parseMemorySize } from '../../../src/cli/memory-choice.ts';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { formatRequesterId } from '../../../src/pci/requester-id.ts';

describe('memory sizes', () => {
  test.each([
    ['512M', 512 * 2 ** 20],
    ['2G', 2 * 2 ** 30],
    ['65536K', 64 * 2 ** 20],
    ['128MiB', 128 * 2 ** 20],
    ['134217728', 128 * 2 ** 20],
  ])('%s', (text, bytes) => {
    expect(parseMemorySize(text)).toBe(bytes);
  });

  test.each([[''], ['M'], ['63M'], ['65537K'], ['512T'], ['-1G'], ['1.5G']])('not %j', (text) => {
    expect(() => parseMemorySize(text)).toThrow(InvalidArgumentError);
  });
});

describe('a range of a guest’s addresses', () => {
  test.each([
    ['0x200000+64K', 0x20_0000, 64 * 2 ** 10],
    ['1000+4096', 0x1000, 4096],
  ])('%s', (text, address, bytes) => {
    expect(parseRange(text)).toEqual({ address, bytes });
  });

  test.each([[''], ['0x200000'], ['0x200000-0x300000'], ['+64K'], ['0x200000+'], ['0+4K+4K']])(
    'not %j',
    (text) => {
      expect(() => parseRange(text)).toThrow(InvalidArgumentError);
    },
  );

  test('is told by where it begins', () => {
    const ranges = [
      { start: '0x0', bytes: 4096, slot: 1, generation: 1 },
      { start: '0x1000', bytes: 4096, slot: 'in-the-clear', generation: null },
    ] as const;
    expect(rangesText('0000:00:04.0', ranges)).toBe(
      '0000:00:04.0 goes by the translation: slot 1 from 0x0, in the clear from 0x1000',
    );
  });
});

describe('pages of a guest', () => {
  test.each([
    ['0x200000', 0x20_0000],
    ['200000', 0x20_0000],
    ['0XfFff000', 0xffff000],
    ['0', 0],
  ])('at %s', (text, address) => {
    expect(parsePageAddress(text)).toBe(address);
  });

  test.each([[''], ['0x'], ['0x1001'], ['-1000'], ['1e3g'], ['0xfffffffffffff000']])(
    'not at %j',
    (text) => {
      expect(() => parsePageAddress(text)).toThrow(InvalidArgumentError);
    },
  );

  test('so many', () => {
    expect(['64K', '4096', '1G'].map(parsePageBytes)).toEqual([65536, 4096, 2 ** 30]);
    for (const text of ['', '0', '64', '1025', '-4K', '1.5M', '99999999999G']) {
      expect(() => parsePageBytes(text)).toThrow(InvalidArgumentError);
    }
  });

  test('that are shared are told by address, or by how much it is', () => {
    const ranges = [
      { address: '0x200000', bytes: 65536 },
      { address: '0x300000', bytes: 4096 },
    ];
    const all = { bytes: 69632, ranges, more: false };
    expect(sharedText(all)).toBe('shared: 64 KiB at 0x200000, 4 KiB at 0x300000');
    expect(sharedText({ ...all, more: true })).toMatch(/0x300000, …$/);
    expect(sharedText({ ...all, ranges: [] })).toMatch(/^shared: 68 KiB, at addresses that no VMM/);
    expect(sharedText({ bytes: 0, ranges: [], more: false })).toBe('shared: nothing');
  });
});

describe('devices', () => {
  const adder = join(import.meta.dirname, '../../../examples/adder/adder.ts');

  test('stand where they are told, the others at the next free place', async () => {
    const choices = ['edu@00:05.0', 'edu', `${adder}#Adder`, adder].reduce(
      (before, text) => parseDevice(text, before),
      parseDevice('edu'),
    );
    const devices = await makeDevices(choices);
    expect(devices.map(({ rid }) => formatRequesterId(rid))).toEqual([
      '0000:00:04.0',
      '0000:00:05.0',
      '0000:00:06.0',
      '0000:00:07.0',
      '0000:00:08.0',
    ]);
    expect(devices.map(({ endpoint }) => endpoint.constructor.name)).toEqual([
      'Edu',
      'Edu',
      'Edu',
      'Adder',
      'Adder',
    ]);
    expect(devices[0]?.endpoint).toBeInstanceOf(Edu);
  });

  test.each([[''], ['@00:04.0'], ['edu@4'], ['edu@00:20.0']])('%j is refused', (text) => {
    expect(() => parseDevice(text)).toThrow(InvalidArgumentError);
  });

  test('a path may have an @ in it', () => {
    const [choice] = parseDevice('node_modules/@acme/dev.ts#Dev@00:06.0');
    expect(choice).toMatchObject({ source: 'node_modules/@acme/dev.ts', exportName: 'Dev' });
    expect(parseDevice('./@acme/dev.ts')[0]?.source).toBe('./@acme/dev.ts');
  });

  test('a file that is not there, or has no device, is named', async () => {
    await expect(makeDevices(parseDevice('no-such.ts'))).rejects.toThrow(/no such file/);
    await expect(makeDevices(parseDevice(`${adder}#Missing`))).rejects.toThrow(/got: Adder/);
    const directory = mkdtempSync(join(tmpdir(), 'sealbus-unit-'));
    try {
      const file = join(directory, 'empty.ts');
      writeFileSync(file, 'export const device = {};\n');
      await expect(makeDevices(parseDevice(file))).rejects.toThrow(/extends PciFunction.*none/s);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
