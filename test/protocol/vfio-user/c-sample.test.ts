import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, ftruncateSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { close, memfdCreate } from '../../../src/ffi/libc.ts';
import { InterruptEvent, VfioUserClient } from '../../../src/vfio-user/client/client.ts';
import { until } from './bench-device.ts';
import { foundLibrary, foundSource } from './library.ts';

/** Our client against devices that others wrote: libvfio-user's sample, and the C peer of the bench. */

const execute = promisify(execFile);
let directory: string;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-c-'));
  const library = await foundLibrary();
  const source = await foundSource();
  const link = [library, `-Wl,-rpath,${dirname(library)}`];
  const compile = async (file: string, name: string, ...more: string[]) => {
    const include = `-I${join(source, 'include')}`;
    const output = ['-o', join(directory, name)];
    await execute('cc', [
      '-std=gnu99',
      '-O1',
      '-D_GNU_SOURCE',
      include,
      ...more,
      file,
      ...link,
      ...output,
    ]);
  };
  await compile(join(source, 'samples/gpio-pci-idio-16.c'), 'gpio', `-I${join(source, 'lib')}`);
  await compile(join(import.meta.dirname, '../../../bench/mmio/server.c'), 'edu');
});

afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

async function started(
  name: string,
  use: (client: VfioUserClient) => Promise<void>,
): Promise<void> {
  const path = join(directory, `${name}.sock`);
  const server = spawn(join(directory, name), [path], { stdio: 'ignore' });
  const ended = once(server, 'exit');
  try {
    await until('the socket', () => existsSync(path));
    using client = await VfioUserClient.connect(path);
    await use(client);
  } finally {
    server.kill('SIGKILL');
    await ended;
  }
}

test('the gpio sample: its identity, and pins that count every third read', async () => {
  await started('gpio', async (client) => {
    expect(client.version.major).toBe(0);
    expect(await client.readConfig(0)).toBe(0x0dc8494f);
    expect((await client.regionInfo(2)).size).toBe(0x100);
    const pins = [];
    for (let i = 0; i < 7; i++) pins.push(await client.readRegister(2, 0, 1));
    expect(pins).toEqual([0, 0, 0, 1, 1, 1, 2]);
    await expect(client.regionRead(2, 0x100, 1)).rejects.toThrow(/EINVAL/);
    const descriptor = memfdCreate('ram');
    try {
      ftruncateSync(descriptor, 8192);
      await client.mapDma({ gpa: 0x10000, size: 8192, file: { descriptor, offset: 0 } });
      await client.unmapDma(0x10000, 8192);
      await expect(client.unmapDma(0x10000, 8192)).rejects.toThrow(/ENOENT/);
    } finally {
      close(descriptor);
    }
  });
});

test('edu in C: registers, and a doorbell that comes back as an interrupt', async () => {
  await started('edu', async (client) => {
    expect(await client.readConfig(0)).toBe(0x11e81234);
    expect(await client.readRegister(0, 0)).toBe(0x010000ed);
    await client.writeRegister(0, 4, 0x12345678);
    expect(await client.readRegister(0, 4)).toBe(0xedcba987);
    await client.writeRegister(0, 8, 10);
    expect(await client.readRegister(0, 8)).toBe(3628800);
    expect(await client.findCapability(5)).toBe(0x40);
    using event = new InterruptEvent();
    await client.wireInterrupts('msi', 0, [event.descriptor]);
    await client.writeRegister(0, 0x60, 5);
    await event.reach(1);
    expect(await client.readRegister(0, 0x24)).toBe(5);
    await client.writeRegister(0, 0x64, 5);
    expect(await client.readRegister(0, 0x24)).toBe(0);
    await client.reset();
    expect(await client.readRegister(0, 4)).toBe(0);
  });
});
