import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { afterAll, describe, expect, it } from 'vitest';
import { openDisks, parseDisk } from '../../../src/cli/disk-choice.ts';
import { Status } from '../../../src/devices/nvme/status.ts';
import { HostDriver } from '../devices/nvme/host-driver.ts';

const place = mkdtempSync(join(tmpdir(), 'sealbus-disk-choice-'));
afterAll(() => rmSync(place, { recursive: true }));

describe('--disk', () => {
  it.each([
    ['disk.img', { path: 'disk.img', readOnly: false }],
    ['disk.img,ro', { path: 'disk.img', readOnly: true }],
    ['a,,b.img,ro', { path: 'a,b.img', readOnly: true }],
    ['ro', { path: 'ro', readOnly: false }],
    ['/x/y=z', { path: '/x/y=z', readOnly: false }],
  ])('%s', (text, disk) => {
    expect(parseDisk(text, [{ path: 'before', readOnly: true }])).toEqual([
      { path: 'before', readOnly: true },
      disk,
    ]);
  });

  it.each(['', ',ro', 'a,rw', 'a,ro,ro', 'a,', 'a,,ro,x'])('not %j', (text) => {
    expect(() => parseDisk(text)).toThrow(InvalidArgumentError);
  });
});

describe('opened disks', () => {
  const signal = new AbortController().signal;
  const options = { memory: 'sealed', snapshot: false, log: () => {}, signal } as const;
  const image = (name: string, bytes = 2 ** 20) => {
    const path = join(place, name);
    writeFileSync(path, Buffer.alloc(bytes, 0x5a));
    return path;
  };

  it('are locked until they are disposed of, and all or none', async () => {
    const path = image('locked.img');
    const one = { path, readOnly: false };
    const disks = await openDisks([one], options);
    await expect(openDisks([one], options)).rejects.toThrow(/in use/);
    await disks[Symbol.asyncDispose]();
    const missing = { path: join(place, 'missing.img'), readOnly: false };
    await expect(openDisks([one, missing], options)).rejects.toThrow(/missing\.img.*no such file/);
    await expect(openDisks([{ path: place, readOnly: false }], options)).rejects.toThrow(
      /a directory/,
    );
    await (await openDisks([one], options))[Symbol.asyncDispose](); // no lock was left
  });

  it.each([
    // Measured (doorbellsFor): shadow doorbells gain in plain memory alone.
    { memory: 'sealed', status: Status.invalidOpcode },
    { memory: 'plain', status: Status.success },
  ] as const)('offer Doorbell Buffer Config as suits $memory memory', async (it) => {
    const choice = { path: image(`${it.memory}.img`), readOnly: false };
    await using disks = await openDisks([choice], { ...options, memory: it.memory });
    const driver = new HostDriver(disks.nvme);
    driver.enable();
    expect((await driver.useShadow()).status).toBe(it.status);
    disks.nvme.reset('device');
  });

  it('of a snapshot are copies without a name', async () => {
    const path = image('snapshot.img');
    const copies = () => readdirSync(tmpdir()).filter((name) => name.startsWith('sealbus-disk-'));
    const before = copies();
    const disks = await openDisks([{ path, readOnly: false }], { ...options, snapshot: true });
    expect(copies()).toEqual(before);
    // The original is free meanwhile.
    await (await openDisks([{ path, readOnly: false }], options))[Symbol.asyncDispose]();
    await disks[Symbol.asyncDispose]();
    expect(readFileSync(path).equals(Buffer.alloc(2 ** 20, 0x5a))).toBe(true);
  });
});
