import { existsSync, fstatSync, ftruncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { close, MFD_ALLOW_SEALING, MFD_CLOEXEC, memfdCreate } from '../../../src/ffi/libc.ts';
import { connectUnix, listenUnix } from '../../../src/ffi/unix-socket.ts';
import { InterruptEvent, VfioUserClient } from '../../../src/vfio-user/client/client.ts';
import { type Bench, bench, until } from './bench-device.ts';

const PAGE = 4096;
const COMMAND = 4;
const BUS_MASTER = 4;

const toClose: { [Symbol.dispose](): void }[] = [];

afterEach(() => {
  for (const thing of toClose.splice(0).reverse()) thing[Symbol.dispose]();
});

async function served(options: Parameters<typeof bench>[0] = {}): Promise<Bench> {
  const made = await bench(options);
  toClose.push(made);
  return made;
}

async function attached(path: string): Promise<VfioUserClient> {
  const client = await VfioUserClient.connect(path, { timeoutMs: 5000 });
  toClose.push(client);
  return client;
}

function interrupt(): InterruptEvent {
  const event = new InterruptEvent();
  toClose.push(event);
  return event;
}

/** Guest RAM of its own, every byte `fill`. */
function guestRam(bytes: number, fill = 0): number {
  const descriptor = memfdCreate('guest-ram', MFD_CLOEXEC | MFD_ALLOW_SEALING);
  toClose.push({ [Symbol.dispose]: () => close(descriptor) });
  ftruncateSync(descriptor, bytes);
  if (fill !== 0) writeFileSync(descriptor, new Uint8Array(bytes).fill(fill));
  return descriptor;
}

function refusedWith(code: string): object {
  return expect.objectContaining({ code }) as object;
}

describe('what a client sees of the function', () => {
  test('regions have the sizes of the BARs and of express configuration space', async () => {
    const { path } = await served();
    const client = await attached(path);
    const sizes = [];
    for (let index = 0; index < 9; index++) sizes.push((await client.regionInfo(index)).size);
    expect(sizes).toEqual([0x10000, 0, 0x1000, 0, 0x20, 0, 0, 4096, 0]);
    expect(await client.interruptCount('intx')).toBe(1);
    expect(await client.interruptCount('msi')).toBe(4);
    expect(await client.interruptCount('msix')).toBe(8);
    // The library would put these eventfds in the place of vector 0.
    expect(await client.interruptCount('error')).toBe(0);
    expect(await client.interruptCount('request')).toBe(0);
  });

  test('the identity, and BARs that say their size when all ones are written', async () => {
    const { path } = await served();
    const client = await attached(path);
    expect(await client.readConfig(0)).toBe(0x5eb11b36);
    expect(await client.readConfig(8)).toBe(0xff123407);
    expect(await client.readConfig(0x2c)).toBe(0x11001af4);
    expect(await client.readConfig(0x3d, 1)).toBe(1);
    for (const bar of [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24]) {
      await client.writeConfig(bar, 0xffffffff);
    }
    expect(await client.readConfig(0x10)).toBe(0xffff0000);
    expect(await client.readConfig(0x14)).toBe(0);
    expect(await client.readConfig(0x18)).toBe(0xfffff00c);
    expect(await client.readConfig(0x1c)).toBe(0xffffffff);
    expect(await client.readConfig(0x20)).toBe(0xffffffe1);
    expect(await client.readConfig(0x24)).toBe(0);
  });

  test('every capability is found in the list', async () => {
    const { path } = await served();
    const client = await attached(path);
    for (const id of [0x01, 0x05, 0x11, 0x10]) {
      expect(await client.findCapability(id)).toBeGreaterThanOrEqual(0x40);
    }
    expect(await client.findCapability(0x09)).toBeUndefined();
  });

  test('read-only registers keep their value, also under one-byte writes', async () => {
    const { path } = await served();
    const client = await attached(path);
    for (const offset of [0, 1, 2, 3, 6, 8, 9, 0xe, 0x2c, 0x34, 0x3d]) {
      const before = await client.readConfig(offset, 1);
      await client.writeConfig(offset, before ^ 0xff, 1);
      expect(await client.readConfig(offset, 1)).toBe(before);
    }
  });
});

describe('BAR access', () => {
  test('bytes go where they belong, at every width', async () => {
    const { path, device } = await served();
    const client = await attached(path);
    for (const length of [1, 2, 3, 4, 7, 8, 9, 64, 4096, 65536]) {
      const data = Uint8Array.from({ length }, (_, i) => (i * 7 + length) & 0xff);
      await client.regionWrite(0, 65536 - length, data);
      expect(device.memory.subarray(65536 - length)).toEqual(data);
      expect(await client.regionRead(0, 65536 - length, length)).toEqual(data);
    }
  });

  test('an access that leaves the BAR is refused and never reaches the function', async () => {
    const { path, device } = await served();
    const client = await attached(path);
    for (const [offset, length] of [
      [0x10000, 1],
      [0xffff, 2],
      [0xfffffffc, 4],
      [2 ** 52, 4],
    ] as const) {
      await expect(client.regionRead(0, offset, length)).rejects.toEqual(refusedWith('EINVAL'));
      await expect(client.regionWrite(0, offset, new Uint8Array(length))).rejects.toEqual(
        refusedWith('EINVAL'),
      );
    }
    await expect(client.regionRead(1, 0, 4)).rejects.toEqual(refusedWith('EINVAL'));
    await expect(client.regionRead(9, 0, 4)).rejects.toEqual(refusedWith('EINVAL'));
    await expect(client.regionRead(77, 0, 4)).rejects.toEqual(refusedWith('EINVAL'));
    expect(device.accesses).toEqual([]);
    await client.writeRegister(0, 0, 5);
    expect(await client.readRegister(0, 0)).toBe(5);
  });

  test('posted writes arrive in order before the read behind them', async () => {
    const { path } = await served();
    const client = await attached(path);
    for (let i = 0; i < 200; i++) {
      client.regionPost(0, 4 * i, new Uint8Array([i, 0, 0, 0]));
    }
    expect(await client.readRegister(0, 4 * 199)).toBe(199);
  });

  test('a function that throws reads as all ones, and the server lives on', async () => {
    const { path, device, logged } = await served();
    const client = await attached(path);
    device.onAccess = () => {
      throw new Error('a bug of the device');
    };
    expect(await client.readRegister(0, 0)).toBe(0xffffffff);
    await client.writeRegister(0, 0, 1);
    expect(logged.some((line) => line.includes('a bug of the device'))).toBe(true);
    device.onAccess = undefined;
    expect(await client.readRegister(0, 0)).toBe(0);
  });

  test('what a function awaits goes on between two accesses', async () => {
    const { path, device } = await served();
    const client = await attached(path);
    let went = 0;
    device.onAccess = () => {
      void Promise.resolve().then(() => went++);
    };
    await client.readRegister(0, 0);
    expect(went).toBe(1);
  });
});

describe('resets and bus mastering', () => {
  test('the bus-master bit is told once for each change, and ends with a reset', async () => {
    const { path, busMaster, device } = await served();
    const client = await attached(path);
    await client.writeConfig(COMMAND, BUS_MASTER | 2, 2);
    await client.writeConfig(COMMAND, BUS_MASTER, 2);
    expect(busMaster).toEqual([true]);
    await client.writeConfig(COMMAND, 0, 1);
    expect(busMaster).toEqual([true, false]);
    await client.writeConfig(COMMAND, BUS_MASTER, 2);
    await client.reset();
    expect(busMaster).toEqual([true, false, true, false]);
    expect(device.resets).toEqual(['device']);
    expect(await client.readConfig(COMMAND, 2)).toBe(0);
  });

  test('a function-level reset resets, and its bit reads as zero', async () => {
    const { path, device } = await served();
    const client = await attached(path);
    const express = (await client.findCapability(0x10)) ?? 0;
    const control = await client.readConfig(express + 8, 2);
    await client.writeConfig(express + 8, control | 0x8000, 2);
    expect(device.resets).toEqual(['function-level']);
    expect((await client.readConfig(express + 8, 2)) & 0x8000).toBe(0);
  });

  test('coming back from D3hot resets, going there does not', async () => {
    const { path, device } = await served();
    const client = await attached(path);
    const power = (await client.findCapability(0x01)) ?? 0;
    await client.writeConfig(power + 4, 3, 2);
    expect(device.resets).toEqual([]);
    await client.writeConfig(power + 4, 0, 2);
    expect(device.resets).toEqual(['power-state']);
  });
});

describe('guest memory', () => {
  test('a region is told with its file, read, written, and gone after the unmapping', async () => {
    const { path, mapped, unmapped } = await served();
    const client = await attached(path);
    const descriptor = guestRam(16 * PAGE, 0x5a);
    const file = { descriptor, offset: 4 * PAGE };
    await client.mapDma({ gpa: 0x100000, size: 8 * PAGE, file });
    const [region] = mapped;
    const stat = fstatSync(descriptor, { bigint: true });
    expect(region).toMatchObject({ gpa: 0x100000, size: 8 * PAGE, readable: true, writable: true });
    expect(region?.file).toMatchObject({
      device: stat.dev,
      inode: stat.ino,
      offset: 4 * PAGE,
      fixedSize: false,
    });
    const bytes = new Uint8Array(5000);
    region?.readInto(100, bytes);
    expect(bytes.every((byte) => byte === 0x5a)).toBe(true);
    region?.writeFrom(8 * PAGE - 3, new Uint8Array([1, 2, 3]));
    const tail = new Uint8Array(3);
    region?.readInto(8 * PAGE - 3, tail);
    expect([...tail]).toEqual([1, 2, 3]);
    expect(() => region?.readInto(8 * PAGE - 2, tail)).toThrow(RangeError);
    expect(() => region?.readInto(-1, tail)).toThrow(RangeError);
    expect(() => region?.readInto(Number.NaN, tail)).toThrow(RangeError);

    await client.unmapDma(0x100000, 8 * PAGE);
    expect(unmapped).toEqual([region]);
    expect(region?.live).toBe(false);
    expect(() => region?.readInto(0, tail)).toThrow(/gone/);
  });

  test('requests sent back to back are each judged by their own descriptors, as QEMU sends them', async () => {
    const { path, logged, server } = await served();
    const client = await attached(path);
    const file = { descriptor: guestRam(4 * PAGE), offset: 0 };
    const event = interrupt();
    await client.mapDma({ gpa: 0, size: PAGE, file });
    for (let round = 0; round < 20; round++) {
      client.regionPost(0, 0, new Uint8Array([1, 2, 3, 4]));
      await Promise.all([
        client.unmapDma(0, PAGE),
        client.mapDma({ gpa: 0, size: 2 * PAGE, file }),
        client.regionWrite(0, 0, new Uint8Array(100)),
        client.mapDma({ gpa: 8 * PAGE, size: PAGE }),
        client.mapDma({ gpa: 16 * PAGE, size: PAGE, file }),
        client.readRegister(0, 0),
        client.wireInterrupts('msix', 1, [event.descriptor]),
        client.maskIntx(false),
        client.wireInterrupts('msix', 2, [event.descriptor]),
      ]);
      expect(server.regions.map(({ gpa, address }) => [gpa, address !== 0])).toEqual([
        [0, true],
        [8 * PAGE, false],
        [16 * PAGE, true],
      ]);
      await Promise.all([client.unmapAllDma(), client.mapDma({ gpa: 0, size: PAGE, file })]);
    }
    expect(logged).toEqual([]);
  });

  test('a read-only region refuses to be written', async () => {
    const { path, mapped } = await served();
    const client = await attached(path);
    const file = { descriptor: guestRam(PAGE), offset: 0 };
    await client.mapDma({ gpa: 0, size: PAGE, file, writable: false });
    expect(() => mapped[0]?.writeFrom(0, new Uint8Array(1))).toThrow(/writable/);
  });

  test('memory that is cut off after the mapping is an error, not SIGBUS', async () => {
    const { path, mapped } = await served();
    const client = await attached(path);
    const descriptor = guestRam(4 * PAGE, 1);
    await client.mapDma({ gpa: 0, size: 4 * PAGE, file: { descriptor, offset: 0 } });
    ftruncateSync(descriptor, PAGE);
    expect(() => mapped[0]?.readInto(2 * PAGE, new Uint8Array(16))).toThrow(/EFAULT/);
    expect(() => mapped[0]?.writeFrom(2 * PAGE, new Uint8Array(16))).toThrow(/EFAULT/);
    expect(await client.readRegister(0, 0)).toBe(0);
  });

  test('maps that would harm the server are refused', async () => {
    const { path, mapped } = await served();
    const client = await attached(path);
    const descriptor = guestRam(4 * PAGE);
    const map = (gpa: number, size: number, offset = 0) =>
      client.mapDma({ gpa, size, file: { descriptor, offset } });
    await expect(map(0, 8 * PAGE)).rejects.toEqual(refusedWith('EINVAL'));
    await expect(map(0, PAGE, 4 * PAGE)).rejects.toEqual(refusedWith('EINVAL'));
    await expect(map(0, PAGE, 5)).rejects.toEqual(refusedWith('EINVAL'));
    await expect(map(12, PAGE)).rejects.toEqual(refusedWith('EINVAL'));
    await expect(map(0, 0)).rejects.toEqual(refusedWith('EINVAL'));
    await expect(map(2 ** 53 - PAGE, PAGE)).rejects.toEqual(refusedWith('EINVAL'));
    await map(PAGE, 2 * PAGE);
    await expect(map(PAGE, 2 * PAGE)).rejects.toEqual(refusedWith('EEXIST'));
    await expect(map(2 * PAGE, 2 * PAGE)).rejects.toEqual(refusedWith('EEXIST'));
    await expect(client.unmapDma(PAGE, PAGE)).rejects.toEqual(refusedWith('ENOENT'));
    expect(mapped.length).toBe(1);
    for (let i = 1; i < 16; i++) await map(0x100000 * i, PAGE);
    await expect(map(0x100000 * 16, PAGE)).rejects.toEqual(refusedWith('ENOSPC'));
    await client.unmapAllDma();
    expect(mapped.every((region) => !region.live)).toBe(true);
  });
});

describe('interrupts', () => {
  test('MSI-X messages reach their own eventfds, and only wired vectors', async () => {
    const { path, device } = await served();
    const client = await attached(path);
    const { interrupts } = device.link;
    expect(interrupts.enabled()).toBe('none');
    interrupts.message(0);
    const events = [interrupt(), interrupt()];
    await client.wireInterrupts(
      'msix',
      2,
      events.map((event) => event.descriptor),
    );
    const msix = (await client.findCapability(0x11)) ?? 0;
    await client.writeConfig(msix + 2, 0x8000, 2);
    expect(interrupts.enabled()).toBe('msi-x');
    interrupts.message(3);
    interrupts.message(3);
    interrupts.message(0);
    await events[1]?.reach(2);
    expect(events.map((event) => event.count)).toEqual([0, 2]);
    for (const vector of [8, -1, 1.5]) {
      expect(() => interrupts.message(vector)).toThrow(RangeError);
    }
    await client.unwireInterrupts('msix');
    await client.writeConfig(msix + 2, 0, 2);
    expect(interrupts.enabled()).toBe('none');
    interrupts.message(3);
    expect(events[1]?.count).toBe(2);
  });

  test('INTx is a level: it is seen again at the unmasking, and at the wiring, while asserted', async () => {
    const { path, device } = await served();
    const client = await attached(path);
    const { interrupts } = device.link;
    const event = interrupt();
    interrupts.intx(true);
    await client.wireInterrupts('intx', 0, [event.descriptor]);
    expect(interrupts.enabled()).toBe('intx');
    await event.reach(1);
    expect((await client.readConfig(6, 2)) & 8).toBe(8);
    interrupts.intx(true);
    await client.maskIntx(true);
    await client.maskIntx(false);
    await event.reach(2);
    interrupts.intx(false);
    await client.maskIntx(true);
    await client.maskIntx(false);
    expect(event.count).toBe(2);
    expect((await client.readConfig(6, 2)) & 8).toBe(0);
    await client.writeConfig(COMMAND, 0x400, 2);
    interrupts.intx(true);
    expect(event.count).toBe(2);
    await client.writeConfig(COMMAND, 0, 2);
    await event.reach(3);
  });

  test('ranges outside the vectors, and descriptors that are no eventfds, are refused', async () => {
    const { path } = await served();
    const client = await attached(path);
    const refused = (...args: Parameters<VfioUserClient['setIrqs']>) =>
      expect(client.setIrqs(...args)).rejects.toEqual(refusedWith('EINVAL'));
    // start + count wraps to 0 in 32 bits: the library alone would close descriptors at random.
    await refused(32 | 4, 2, 1, 0xffffffff);
    await refused(32 | 1, 2, 8, 1);
    await refused(32 | 1, 0, 0, 2);
    await refused(32 | 1, 5, 0, 1);
    await refused(32 | 1, 3, 0, 0);
    await refused(8 | 16 | 1, 0, 0, 1);
    const event = interrupt();
    await refused(32 | 4, 2, 0, 2, [event.descriptor]);
    await expect(client.wireInterrupts('msix', 0, [guestRam(PAGE)])).rejects.toEqual(
      refusedWith('EBADF'),
    );
    expect(await client.readRegister(0, 0)).toBe(0);
  });
});

describe('clients come and go', () => {
  test('after a client has gone the function is reset, its memory unmapped, the next let in', async () => {
    const { path, device, mapped, unmapped, connections, busMaster } = await served();
    for (let round = 1; round <= 3; round++) {
      const client = await VfioUserClient.connect(path);
      const event = interrupt();
      await client.mapDma({ gpa: 0, size: PAGE, file: { descriptor: guestRam(PAGE), offset: 0 } });
      await client.wireInterrupts('msi', 0, [event.descriptor]);
      await client.writeConfig(COMMAND, BUS_MASTER, 2);
      client.close();
      await until(
        'the reset',
        () => device.resets.length === round && connections.length === 2 * round,
      );
      expect(unmapped.length).toBe(round);
      expect(mapped.every((region) => !region.live)).toBe(true);
      expect(busMaster.at(-1)).toBe(false);
      expect(device.link.interrupts.enabled()).toBe('none');
    }
    expect(device.resets).toEqual(Array(3).fill('connection-lost'));
  });

  test('a second client is told EBUSY, and the first does not notice', async () => {
    const { path } = await served();
    const first = await attached(path);
    await first.writeRegister(0, 0, 42);
    await expect(VfioUserClient.connect(path)).rejects.toEqual(refusedWith('EBUSY'));
    expect(await first.readRegister(0, 0)).toBe(42);
    first.close();
    const second = await attached(path);
    expect(await second.readRegister(0, 0)).toBe(42);
  });

  test('connections that say nothing keep nobody out', async () => {
    const { path } = await served();
    const silent = Array.from({ length: 3 }, () => connectUnix(path));
    try {
      const client = await attached(path);
      expect(await client.readRegister(0, 0)).toBe(0);
    } finally {
      for (const descriptor of silent) close(descriptor);
    }
  });

  test('close() ends the connection, resets, and removes the socket file', async () => {
    const { path, server, device, unmapped } = await served();
    const client = await attached(path);
    await client.mapDma({ gpa: 0, size: PAGE, file: { descriptor: guestRam(PAGE), offset: 0 } });
    server.close();
    server.close();
    expect(device.resets).toEqual(['connection-lost']);
    expect(unmapped.length).toBe(1);
    expect(existsSync(path)).toBe(false);
    await expect(client.readRegister(0, 0)).rejects.toThrow(/ended/);
  });

  test('close() by whoever is told of a client is the end, and nothing fails after it', async () => {
    let made: Bench | undefined;
    const uncaught: unknown[] = [];
    const onUncaught = (error: unknown) => uncaught.push(error);
    process.on('uncaughtException', onUncaught);
    toClose.push({ [Symbol.dispose]: () => process.off('uncaughtException', onUncaught) });
    made = await served({ onConnection: (connected) => connected && made?.server.close() });
    const { path } = made;
    const client = await attached(path);
    await expect(client.readConfig(0)).rejects.toThrow(/connection ended/);
    expect(existsSync(path)).toBe(false);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(uncaught).toEqual([]);
  });

  test('close() inside an access lets the access end first', async () => {
    const { path, server, device } = await served();
    const client = await attached(path);
    device.onAccess = () => server.close();
    await client.readRegister(0, 0).catch(() => undefined);
    expect(device.resets).toEqual(['connection-lost']);
    expect(server.connected).toBe(false);
  });
});

describe('the socket file', () => {
  test('one that nobody listens at is replaced', async () => {
    const path = join(tmpdir(), `sealbus-stale-${process.pid}`);
    close(listenUnix(path, 1));
    expect(existsSync(path)).toBe(true);
    await served({ socketPath: path });
    await attached(path);
  });

  test('one that is in use, or no socket, is left alone', async () => {
    const { path } = await served();
    const client = await attached(path);
    await expect(bench({ socketPath: path })).rejects.toThrow(/another process listens/);
    expect(await client.readRegister(0, 0)).toBe(0);
    const file = `${path}.txt`;
    writeFileSync(file, 'keep');
    await expect(bench({ socketPath: file })).rejects.toThrow(/no socket/);
    expect(existsSync(file)).toBe(true);
  });

  test('a path that does not fit is refused before anything is made', async () => {
    const path = join(tmpdir(), 'x'.repeat(108));
    await expect(bench({ socketPath: path })).rejects.toThrow(/1 to 107 bytes/);
    expect(existsSync(path)).toBe(false);
  });
});
