import { openSync, readdirSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { close, eventfd, memfdCreate } from '../../../src/ffi/libc.ts';
import { connectUnix, MessageBuffer } from '../../../src/ffi/unix-socket.ts';
import { VfioUserClient } from '../../../src/vfio-user/client/client.ts';
import { bench } from './bench-device.ts';

/**
 * Whatever bytes and descriptors a client sends, the process lives on, the next client is served, and
 * nothing leaks. An assertion of libvfio-user, a stray free or a SIGBUS would end the test runner.
 */

const HEADER = 16;
type Kind = 'eventfd' | 'memory' | 'file' | 'socket';

interface Sent {
  readonly bytes: Uint8Array;
  readonly descriptors: readonly Kind[];
  /** Send the first bytes apart from the rest. */
  readonly split: number;
}

function message(command: number, words: readonly number[], data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER + 4 * words.length + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(2, command, true);
  view.setUint32(4, bytes.length, true);
  words.forEach((word, index) => {
    view.setUint32(HEADER + 4 * index, word >>> 0, true);
  });
  bytes.set(data, HEADER + 4 * words.length);
  return bytes;
}

const edge = fc.oneof(
  fc.constantFrom(0, 1, 2, 4, 7, 8, 24, 32, 36, 64, 0x1000, 0x10000, 0x7fffffff, 0xffffffff),
  fc.nat({ max: 0xffffffff }),
);
const small = fc.nat({ max: 9 });
const data = fc.uint8Array({ maxLength: 80 });

/** Messages whose shape is right and whose numbers may be anything. */
const shaped = fc.oneof(
  // Version, device, region and interrupt information.
  fc
    .tuple(fc.constantFrom(1, 4, 5, 6, 7), fc.array(edge, { maxLength: 8 }), data)
    .map(([command, words, rest]) => message(command, words, rest)),
  // Region access: offset (two words), region, count.
  fc
    .tuple(fc.constantFrom(9, 10), edge, fc.constantFrom(0, 0, 1, 0xffffffff), small, edge, data)
    .map(([command, low, high, region, count, rest]) =>
      message(command, [low, high, region, count], rest),
    ),
  // Region access whose count is true: it reaches configuration space and the function.
  fc
    .tuple(fc.constantFrom(9, 10), fc.nat({ max: 0x1100 }), fc.constantFrom(0, 2, 4, 7, 7), data)
    .map(([command, offset, region, rest]) =>
      message(command, [offset, 0, region, rest.length], rest),
    ),
  // DMA map: argsz, flags, offset, address, size (two words each).
  fc
    .tuple(fc.constantFrom(32, 0, 0xffffffff), small, edge, small, edge, small, edge, small)
    .map(([argsz, ...rest]) => message(2, [argsz, ...rest], new Uint8Array())),
  fc
    .tuple(small, small, small, small)
    .map(([flags, offset, page, pages]) =>
      message(2, [32, flags & 3, offset << 12, 0, page << 12, 0, pages << 12, 0], new Uint8Array()),
    ),
  // DMA unmap: argsz, flags, address, size; perhaps a bitmap behind.
  fc
    .tuple(edge, small, edge, small, edge, small, data)
    .map(([argsz, flags, a, b, c, d, rest]) => message(3, [argsz, flags, a, b, c, d], rest)),
  fc
    .tuple(small, small)
    .map(([page, pages]) => message(3, [24, 0, page << 12, 0, pages << 12, 0], new Uint8Array())),
  // Set interrupts: argsz, flags, index, start, count.
  fc
    .tuple(edge, fc.nat({ max: 63 }), small, edge, edge, data)
    .map(([argsz, flags, index, start, count, rest]) =>
      message(8, [argsz, flags, index, start, count], rest),
    ),
  fc
    .tuple(fc.constantFrom(33, 34, 36, 9, 17), fc.nat({ max: 2 }), small, small)
    .map(([flags, index, start, count]) =>
      message(8, [20, flags, index, start, count], new Uint8Array(flags === 34 ? count : 0)),
    ),
  // Reset, dirty pages, DMA by message, commands that there are not.
  fc
    .tuple(fc.constantFrom(0, 11, 12, 13, 13, 14, 15, 0xffff), fc.array(edge, { maxLength: 8 }))
    .map(([command, words]) => message(command, words, new Uint8Array())),
);

const damaged = fc
  .tuple(shaped, fc.array(fc.tuple(fc.nat({ max: 63 }), fc.nat({ max: 255 })), { maxLength: 3 }))
  .map(([bytes, changes]) => {
    const copy = bytes.slice();
    for (const [at, value] of changes) if (at < copy.length) copy[at] = value;
    return copy;
  });

const truncated = fc
  .tuple(shaped, fc.nat({ max: 60 }))
  .map(([bytes, left]) => bytes.slice(0, Math.min(left, bytes.length)));

const noReply = shaped.map((bytes) => {
  const copy = bytes.slice();
  copy[8] = 0x10;
  return copy;
});

const sent: fc.Arbitrary<Sent> = fc.record({
  bytes: fc.oneof(
    { weight: 6, arbitrary: shaped },
    { weight: 2, arbitrary: noReply },
    { weight: 2, arbitrary: damaged },
    { weight: 1, arbitrary: truncated },
    { weight: 1, arbitrary: fc.uint8Array({ minLength: 1, maxLength: 200 }) },
  ),
  descriptors: fc.oneof(
    { weight: 3, arbitrary: fc.constant([]) },
    {
      weight: 2,
      arbitrary: fc.array(fc.constantFrom<Kind>('eventfd', 'memory', 'file', 'socket'), {
        maxLength: 5,
      }),
    },
  ),
  split: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, fc.nat({ max: 40 })),
});

const versionText = new TextEncoder().encode('{"capabilities":{"max_msg_fds":8}}\0');
const version = message(1, [0x00010000], versionText);

function open(kind: Kind, path: string): number {
  switch (kind) {
    case 'eventfd':
      return eventfd();
    case 'memory': {
      // Nobody gives it a size: it is always too short.
      return memfdCreate('fuzz');
    }
    case 'file':
      return openSync('/proc/self/exe', 'r');
    case 'socket':
      return connectUnix(path);
  }
}

function put(fd: number, out: MessageBuffer, bytes: Uint8Array, descriptors: number[]): void {
  out.bytes.set(bytes);
  try {
    out.send(fd, bytes.length, descriptors);
  } catch {
    // The server has had enough of this client.
  }
}

const turn = (ms = 0) => new Promise((resolve) => setTimeout(resolve, ms));

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

test('random and mutated messages disconnect their client at most', {
  timeout: 60_000,
}, async () => {
  using served = await bench();
  const { path } = served;
  const out = new MessageBuffer(8192);
  const check = async () => {
    const client = await VfioUserClient.connect(path);
    await client.writeRegister(0, 0, 0x600d);
    expect(await client.readRegister(0, 0)).toBe(0x600d);
    client.close();
    while (served.server.connected) await turn();
  };
  await check();
  await turn(20);
  const before = openDescriptors();
  await fc.assert(
    fc.asyncProperty(
      fc.array(sent, { minLength: 1, maxLength: 12 }),
      fc.boolean(),
      async (messages, greets) => {
        const fd = connectUnix(path);
        if (greets) put(fd, out, version, []);
        for (const { bytes, descriptors, split } of messages) {
          const opened = descriptors.map((kind) => open(kind, path));
          if (split > 0 && split < bytes.length) {
            put(fd, out, bytes.subarray(0, split), opened);
            await turn();
            put(fd, out, bytes.subarray(split), []);
          } else if (bytes.length > 0) {
            put(fd, out, bytes, opened);
          }
          for (const descriptor of opened) close(descriptor);
        }
        await turn();
        close(fd);
        await check();
        expect(served.server.regions).toEqual([]);
      },
    ),
    { numRuns: 400, interruptAfterTimeLimit: 20_000, markInterruptAsFailure: false },
  );
  await turn(50);
  // Sockets that the door still waits for end with their clients.
  expect(openDescriptors()).toBeLessThanOrEqual(before + 2);
  expect(served.device.resets.length).toBeGreaterThan(0);
});

test('half a message is waited for without spinning, and then ends the connection', async () => {
  using served = await bench();
  const client = await VfioUserClient.connect(served.path);
  const out = new MessageBuffer(256);
  put(
    client.connection.descriptor,
    out,
    message(9, [0, 0, 0, 4], new Uint8Array()).subarray(0, 20),
    [],
  );
  const cpu = process.cpuUsage();
  await turn(500);
  const used = process.cpuUsage(cpu);
  expect(used.user + used.system).toBeLessThan(250_000);
  expect(served.server.connected).toBe(true);
  while (served.server.connected) await turn(20);
  expect(served.logged.some((line) => line.includes('half a message'))).toBe(true);
  client.close();
  using next = await VfioUserClient.connect(served.path);
  expect(await next.readRegister(0, 0)).toBe(0);
});

test('a client that reads no reply is disconnected, and stops nobody', async () => {
  using served = await bench();
  const fd = connectUnix(served.path);
  const out = new MessageBuffer(8192);
  put(fd, out, version, []);
  const ask = message(9, [0, 0, 0, 65536], new Uint8Array());
  const began = performance.now();
  for (let i = 0; i < 200; i++) {
    put(fd, out, ask, []);
    await turn();
  }
  expect(performance.now() - began).toBeLessThan(5000);
  expect(served.server.connected).toBe(false);
  close(fd);
  using next = await VfioUserClient.connect(served.path);
  expect(await next.readRegister(0, 0)).toBe(0);
});

test('at rest the server takes no processor time, also after a burst', async () => {
  using served = await bench();
  using client = await VfioUserClient.connect(served.path);
  for (let i = 0; i < 500; i++) await client.readRegister(0, 0);
  await turn(20);
  const cpu = process.cpuUsage();
  await turn(500);
  const used = process.cpuUsage(cpu);
  expect(used.user + used.system).toBeLessThan(100_000);
});
