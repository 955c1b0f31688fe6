import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, ftruncateSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type ConnectOptions, Vmm } from '../../../src/client/vmm.ts';
import { close, memfdCreate } from '../../../src/ffi/libc.ts';
import { InterruptEvent, VfioUserClient } from '../../../src/vfio-user/client/client.ts';
import { until } from './bench-device.ts';
import { foundLibrary, foundSource } from './library.ts';

/** Our clients against devices that others wrote: libvfio-user's samples, and the C peer of the bench. */

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
  const internals = `-I${join(source, 'lib')}`;
  await compile(join(source, 'samples/gpio-pci-idio-16.c'), 'gpio', internals);
  await compile(join(source, 'samples/server.c'), 'server', internals, '-w');
  await compile(join(import.meta.dirname, '../../../bench/mmio/server.c'), 'edu');
});

afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

async function started(
  name: string,
  use: (client: VfioUserClient) => Promise<void>,
): Promise<void> {
  await serving(name, async (path) => {
    await until('the socket', () => existsSync(path));
    using client = await VfioUserClient.connect(path);
    await use(client);
  });
}

async function serving(name: string, use: (path: string) => Promise<void>): Promise<void> {
  const path = join(directory, `${name}.sock`);
  const server = spawn(join(directory, name), [path], { stdio: 'ignore' });
  const ended = once(server, 'exit');
  try {
    await use(path);
  } finally {
    server.kill('SIGKILL');
    await ended;
    rmSync(path, { force: true });
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

describe('a Vmm', () => {
  async function driving(
    name: string,
    use: (vmm: Vmm) => Promise<void>,
    options: ConnectOptions = {},
  ) {
    await serving(name, async (path) => {
      await using vmm = await Vmm.connect(path, { connectMs: 10_000, ...options });
      await use(vmm);
    });
  }

  test('the gpio sample: identity, pins, a reset, and a second attachment', async () => {
    await driving('gpio', async (vmm) => {
      expect(await vmm.identity()).toMatchObject({ vendor: 0x494f, device: 0x0dc8 });
      expect(vmm.interruptKind).toBe('intx');
      const pins = [];
      for (let i = 0; i < 7; i++) pins.push(await vmm.bar2.read8(0));
      expect(pins).toEqual([0, 0, 0, 1, 1, 1, 2]);
      await expect(vmm.bar2.read8(0x100)).rejects.toThrow(/BAR2's 0x100 bytes/);
      await expect(vmm.bar1.read8(0)).rejects.toThrow(/which it has not/);
      await vmm.reset();
      await vmm.reconnect();
      // The sample counts on across clients.
      expect(await vmm.bar2.read8(0)).toBe(2);
    });
  });

  test('edu in C: registers, and interrupts of the kind that is asked for', async () => {
    for (const interrupts of ['msi', 'best'] as const) {
      await driving(
        'edu',
        async (vmm) => {
          expect(vmm.interruptKind).toBe('msi');
          await vmm.bar0.write32(4, 0x12345678);
          expect(await vmm.bar0.read32(4)).toBe(0xedcba987);
          await vmm.bar0.write32(0x60, 5);
          await vmm.interrupt().next();
          expect(await vmm.bar0.read32(0x24)).toBe(5);
          await vmm.reset();
          expect(await vmm.bar0.read32(4)).toBe(0);
        },
        { interrupts },
      );
    }
  });

  test.each(['mapped', 'message'] as const)(
    'server.c: a timer that interrupts, and then DMA by message, of memory %s',
    async (dma) => {
      await driving(
        'server',
        async (vmm) => {
          expect(await vmm.identity()).toMatchObject({ vendor: 0xdead, device: 0xbeef });
          expect(vmm.bar1.size).toBe(0x3000);
          await vmm.bar1.write32(0, 0xc0ffee);
          expect(await vmm.bar1.read32(0)).toBe(0xc0ffee);
          // BAR0 takes 8 bytes alone: the second at which to interrupt.
          await expect(vmm.bar0.read32(0)).rejects.toThrow(/EINVAL.*at 0x0 of BAR0/);
          await vmm.bar0.write64(0, Math.floor(Date.now() / 1000) + 2);
          const reads = vi.spyOn(vmm.memory, 'readInto');
          await vmm.interrupt().next();
          // It writes a page and reads it back; whoever asks it anything meanwhile confuses the library.
          await until('its DMA', () => reads.mock.calls.some(([, into]) => into.length === 4096));
          const written = vmm.memory.read(vmm.memory.gpa, 4097);
          expect([...new Set(written.subarray(0, 4096))]).toEqual([0x41]);
          expect(written[4096]).toBe(0);
          // It goes on only where what it read back is what it wrote.
          expect(await vmm.bar1.read32(0)).toBe(0xc0ffee);
        },
        { dma },
      );
    },
  );

  test('a server that is killed is told at once to whoever waits for it', async () => {
    const path = join(directory, 'killed.sock');
    const server = spawn(join(directory, 'gpio'), [path], { stdio: 'ignore' });
    const ended = once(server, 'exit');
    try {
      await using vmm = await Vmm.connect(path, { connectMs: 10_000 });
      const waiting = expect(vmm.interrupt().next(60_000)).rejects.toThrow(/closed the connection/);
      server.kill('SIGKILL');
      await waiting;
      await expect(vmm.bar2.read8(0)).rejects.toThrow(/closed the connection/);
      expect(vmm.connected).toBe(false);
    } finally {
      server.kill('SIGKILL');
      await ended;
    }
  });
});
