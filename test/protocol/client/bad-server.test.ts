import { readdirSync } from 'node:fs';
import * as fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { type ConnectOptions, Vmm } from '../../../src/client/vmm.ts';
import {
  type Answer,
  type Asked,
  Command,
  message,
  ScriptedServer,
  version,
  words,
} from './scripted-server.ts';

/** Whatever a server does, the client says what it was, in time, and leaves nothing behind. */

const ends: (Disposable | AsyncDisposable)[] = [];
afterEach(async () => {
  for (const one of ends.splice(0).reverse()) {
    if (Symbol.asyncDispose in one) await one[Symbol.asyncDispose]();
    else one[Symbol.dispose]();
  }
});

async function serving(answer?: (asked: Asked) => Answer): Promise<ScriptedServer> {
  const server = await ScriptedServer.start(answer);
  ends.push(server);
  return server;
}

async function connected(server: ScriptedServer, options: ConnectOptions = {}): Promise<Vmm> {
  const vmm = await Vmm.connect(server.path, { timeoutMs: 300, ...options });
  ends.push(vmm);
  return vmm;
}

const to = (command: number, answer: Answer) => (asked: Asked) =>
  asked.command === command ? answer : undefined;

test('a good server of this kind is driven', async () => {
  const server = await serving();
  const vmm = await connected(server);
  expect(await vmm.bar0.read32(0)).toBe(0x5a5a5a5a);
  await vmm.bar0.writeBytes(0, new Uint8Array(4096));
  expect(vmm.interruptKind).toBe('intx');
  const mapped = server.asked.find(({ command }) => command === Command.dmaMap);
  expect(mapped?.body.readBigUInt64LE(16)).toBe(0x10_0000n);
});

describe('while connecting', () => {
  test.each([
    ['nobody listens', undefined, /ENOENT/],
    ['it closes at once', to(Command.version, 'close'), /closed the connection/],
    ['it says nothing', to(Command.version, 'silence'), /no reply to VERSION within 300 ms/],
    [
      'it speaks another version',
      to(Command.version, { body: version(1, 0, '{}') }),
      /expected a server of vfio-user 0\.1, got 1\.0/,
    ],
    [
      'its capabilities are no JSON',
      to(Command.version, { body: version(0, 1, '{"capabilities"') }),
      /expected JSON in the server's version message/,
    ],
    ['it is no PCI device', to(Command.deviceInfo, { body: words(16, 0, 3, 0) }), /of 3 regions/],
    ['it refuses memory', to(Command.dmaMap, { errno: 12 }), /DMA_MAP failed: ENOMEM/],
    [
      'its answer is too short',
      to(Command.regionInfo, { body: words(32, 3, 0) }),
      /answered DEVICE_GET_REGION_INFO with 12 bytes, expected 32/,
    ],
    ['an answer never comes', to(Command.irqInfo, 'silence'), /no reply to DEVICE_GET_IRQ_INFO/],
  ] as const)('%s', async (_, answer, expected) => {
    const before = readdirSync('/proc/self/fd').length;
    if (answer === undefined) {
      await expect(Vmm.connect('/tmp/sealbus-nobody.sock')).rejects.toThrow(expected);
    } else {
      const server = await serving(answer);
      await expect(Vmm.connect(server.path, { timeoutMs: 300 })).rejects.toThrow(expected);
      server[Symbol.dispose]();
      await expect.poll(() => readdirSync('/proc/self/fd').length).toBe(before);
    }
  });

  test('a server that starts late is waited for', async () => {
    const late = await ScriptedServer.start();
    const { path } = late;
    late[Symbol.dispose]();
    const refused = performance.now();
    await expect(Vmm.connect(path, { connectMs: 30 })).rejects.toThrow(/ENOENT/);
    expect(performance.now() - refused).toBeGreaterThanOrEqual(30);
  });

  test('capabilities of any shape, and counts out of all bounds, do no harm', async () => {
    const json = fc.oneof(
      fc.json(),
      fc
        .record({ max_msg_fds: fc.jsonValue(), max_data_xfer_size: fc.jsonValue() })
        .map((capabilities) => JSON.stringify({ capabilities })),
    );
    await fc.assert(
      fc.asyncProperty(json, async (text) => {
        using server = await ScriptedServer.start(
          to(Command.version, { body: version(0, 1, text) }),
        );
        await using vmm = await Vmm.connect(server.path, { timeoutMs: 5000 });
        expect(await vmm.bar0.read8(7)).toBe(0x5a);
        expect(vmm.client.version.dataBytesMax).toBeGreaterThan(0);
      }),
      { numRuns: 30 },
    );
    const many = await serving((asked) => {
      if (asked.command === Command.irqInfo) return { body: words(16, 1, 0, 0xffff_ffff) };
      const loop = asked.body.readUInt32LE(8) === 7 && asked.body.readBigUInt64LE(0) >= 0x34n;
      if (asked.command !== Command.regionRead || !loop) return undefined;
      // Every capability is another one's next, and none is MSI-X.
      return {
        body: Buffer.concat([asked.body.subarray(0, 16), Buffer.from([0x44, 0x44])]).subarray(
          0,
          16 + asked.body.readUInt32LE(12),
        ),
      };
    });
    await expect(Vmm.connect(many.path, { timeoutMs: 5000 })).rejects.toThrow(
      /expected a capability for msix interrupts/,
    );
  });
});

describe('while driving', () => {
  test('an access that is refused names the errno and the place, and the next one goes on', async () => {
    let refuse = true;
    const server = await serving(({ command }) =>
      command === Command.regionRead && refuse ? { errno: 22 } : undefined,
    );
    const vmm = await connected(server, { interrupts: 'none' });
    await expect(vmm.bar0.read32(0x10)).rejects.toThrow(/EINVAL.*at 0x10 of BAR0/);
    refuse = false;
    expect(await vmm.bar0.read32(0x10)).toBe(0x5a5a5a5a);
  });

  test('an answer that lies about its length, or answers something else, ends it or is refused', async () => {
    const cases: [Answer | ((asked: Asked) => Answer), RegExp][] = [
      [{ body: words(0, 0, 0) }, /answered REGION_READ with 12 bytes, expected 20/],
      [{ body: Buffer.alloc(400) }, /says 0 and has 384/],
      [({ body }) => ({ body: Buffer.concat([body, Buffer.alloc(9)]) }), /says 4 and has 9/],
      [
        ({ id }) => ({ raw: message({ id, command: 13 }, 1, Buffer.alloc(20)) }),
        /answered REGION_READ with a reply to command 13/,
      ],
      [
        ({ id }) => ({ raw: message({ id: id ^ 0x8000, command: 9 }, 1, Buffer.alloc(20)) }),
        /a reply \(command 9, message \d+\) that nobody asked for/,
      ],
      [({ id }) => ({ raw: message({ id, command: 9 }, 7, Buffer.alloc(0)) }), /message of type 7/],
      [{ raw: Buffer.alloc(16) }, /a message of 0 bytes/],
      [{ raw: Buffer.alloc(16, 0xff) }, /a message of 4294967295 bytes/],
      ['close', /closed the connection/],
      ['silence', /no reply to REGION_READ within 300 ms/],
    ];
    for (const [answer, expected] of cases) {
      const server = await serving((asked) =>
        asked.command === Command.regionRead && asked.body.readUInt32LE(8) === 0
          ? typeof answer === 'function'
            ? answer(asked)
            : answer
          : undefined,
      );
      const vmm = await connected(server);
      await expect(vmm.bar0.read32(0)).rejects.toThrow(expected);
    }
  });

  test('one that closes in the middle of a message is told so, by all who wait', async () => {
    const server = await serving();
    const vmm = await connected(server);
    const waiting = expect(vmm.interrupt().next()).rejects.toThrow(/in the middle of a message/);
    server.send(message({ id: 0, command: 11 }, 0, Buffer.alloc(16)).subarray(0, 20));
    await new Promise((resolve) => setTimeout(resolve, 20));
    server[Symbol.dispose]();
    await waiting;
    await expect(vmm.bar0.read32(0)).rejects.toThrow(/in the middle of a message/);
    expect(vmm.connected).toBe(false);
  });

  test('an answer after its time harms nothing that comes later', async () => {
    let late: Buffer | undefined;
    const server = await serving((asked) => {
      if (asked.command !== Command.regionRead || late !== undefined) return undefined;
      late = message(asked, 1, Buffer.concat([asked.body.subarray(0, 16), Buffer.alloc(4, 1)]));
      return 'silence';
    });
    const vmm = await connected(server, { interrupts: 'none', timeoutMs: 50 });
    await expect(vmm.bar0.read32(0)).rejects.toThrow(/within 50 ms/);
    server.send(late ?? Buffer.alloc(0));
    expect(await vmm.bar0.read32(0)).toBe(0x5a5a5a5a);
  });

  test('one that reads nothing is given up, not waited for without end', async () => {
    const server = await ScriptedServer.start();
    ends.push(server);
    const vmm = await connected(server);
    server.stopReading();
    const block = new Uint8Array(4096);
    const sent = Array.from({ length: 1000 }, () => vmm.bar0.writeBytes(0, block));
    const outcomes = await Promise.allSettled(sent);
    expect(outcomes.every(({ status }) => status === 'rejected')).toBe(true);
    await expect(vmm.bar0.read32(0)).rejects.toThrow();
  });
});

describe('DMA by message', () => {
  const dma = (command: number, address: bigint, count: bigint, data = Buffer.alloc(0)) => {
    const body = Buffer.alloc(16);
    body.writeBigUInt64LE(address, 0);
    body.writeBigUInt64LE(count, 8);
    return message({ id: 77, command }, 0, Buffer.concat([body, data]));
  };
  const answerTo = async (server: ScriptedServer, request: Buffer) => {
    const before = server.asked.length;
    server.send(request);
    await expect.poll(() => server.asked.length).toBe(before + 1);
    return server.asked[before] as Asked;
  };

  test('a server reads and writes what it was lent, and nothing beside it', async () => {
    const server = await serving();
    const vmm = await connected(server, { dma: 'message', bytes: 8192 });
    const { gpa } = vmm.memory;
    vmm.memory.write(gpa + 10, Uint8Array.of(1, 2, 3));
    const read = await answerTo(server, dma(Command.dmaRead, BigInt(gpa + 10), 3n));
    expect([read.id, read.command, [...read.body.subarray(16)]]).toEqual([77, 11, [1, 2, 3]]);
    await answerTo(server, dma(Command.dmaWrite, BigInt(gpa + 8190), 2n, Buffer.from([8, 9])));
    expect([...vmm.memory.read(gpa + 8190, 2)]).toEqual([8, 9]);
    const whole = vmm.memory.read(gpa, 8192);
    for (const bad of [
      dma(Command.dmaRead, BigInt(gpa) - 1n, 4n),
      dma(Command.dmaRead, BigInt(gpa), 8193n),
      dma(Command.dmaRead, 0xffff_ffff_ffff_ffffn, 2n),
      dma(Command.dmaRead, BigInt(gpa), 0xffff_ffff_ffff_ffffn),
      dma(Command.dmaWrite, BigInt(gpa + 8191), 2n, Buffer.from([1, 1])),
      dma(Command.dmaWrite, BigInt(gpa), 4n, Buffer.from([1])),
      message({ id: 78, command: Command.dmaRead }, 0, Buffer.alloc(3)),
      message({ id: 79, command: 14 }, 0, Buffer.alloc(16)),
    ]) {
      expect((await answerTo(server, bad)).body).toHaveLength(0);
    }
    expect(Buffer.compare(vmm.memory.read(gpa, 8192), whole)).toBe(0);
    expect(await vmm.bar0.read32(0)).toBe(0x5a5a5a5a);
  });

  test('a long answer goes out whole, though the socket takes it in pieces', async () => {
    const server = await serving();
    const vmm = await connected(server, { dma: 'message', bytes: 2 ** 20 });
    const bytes = Uint8Array.from({ length: 2 ** 20 }, (_, i) => (i * 7) ^ (i >> 9));
    vmm.memory.write(vmm.memory.gpa, bytes);
    const request = dma(Command.dmaRead, BigInt(vmm.memory.gpa), 2n ** 20n);
    const { body } = await answerTo(server, request);
    expect(Buffer.compare(body.subarray(16), bytes)).toBe(0);
  });
});
