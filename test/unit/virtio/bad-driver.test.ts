import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Common, EVENT_IDX, INDIRECT, NEEDS_RESET, VERSION_1, VirtioBench } from './bench.ts';
import { DriverQueue } from './driver-queue.ts';
import { Echo } from './echo.ts';

const NEXT = 1;
const WRITE = 2;
const TABLE = 4;
const SIZE = 8;
const BUFFER = { address: 9000, length: 8 };
const ROOM = { address: 9100, length: 8 };
const FAR = 2 ** 32;
const TABLE_AT = 16384;

function bench(features: readonly number[] = [VERSION_1, INDIRECT]) {
  const device = new Echo();
  const link = new VirtioBench(device);
  link.negotiate(features);
  link.write(Common.configVector, 2, 2);
  const queue = new DriverQueue(link, { size: SIZE, features });
  const later = new DriverQueue(link, { size: SIZE, features, index: 1, base: 4096 });
  link.ready();
  link.interrupts.messages.length = 0;
  return { device, link, queue, later, view: new DataView(link.memory.buffer) };
}

type Setting = ReturnType<typeof bench>;

/** What a driver may do wrong, then a notification. */
const wrongs: [what: string, wrong: (setting: Setting) => void, error: RegExp][] = [
  [
    'a loop of descriptors',
    ({ queue }) => {
      queue.descriptor(queue.descriptors, 0, BUFFER, NEXT, 1);
      queue.descriptor(queue.descriptors, 1, BUFFER, NEXT, 0);
      queue.offer(0);
    },
    /loop/,
  ],
  [
    'a descriptor that is its own next',
    ({ queue }) => {
      queue.descriptor(queue.descriptors, 3, BUFFER, NEXT, 3);
      queue.offer(3);
    },
    /loop/,
  ],
  [
    'chains that share descriptors',
    ({ queue }) => {
      for (let n = 0; n < SIZE; n++) {
        queue.descriptor(queue.descriptors, n, BUFFER, n < SIZE - 1 ? NEXT : 0, n + 1);
      }
      queue.offer(0);
      queue.offer(1);
    },
    /share/,
  ],
  [
    'a next outside the table',
    ({ queue }) => {
      queue.descriptor(queue.descriptors, 0, BUFFER, NEXT, SIZE);
      queue.offer(0);
    },
    /next descriptor of head 0 below 8, got 8/,
  ],
  [
    'a head outside the table',
    ({ queue }) => queue.offer(SIZE),
    /head below 8 in avail.ring, got 8/,
  ],
  [
    'a head twice',
    ({ queue }) => {
      queue.descriptor(queue.descriptors, 0, BUFFER, 0);
      queue.offer(0);
      queue.offer(0);
    },
    /not in flight in avail.ring, got 0/,
  ],
  [
    'an avail idx that runs ahead',
    ({ queue, view }) => view.setUint16(queue.available + 2, SIZE + 1, true),
    /at most 8 ahead of 0, got 9/,
  ],
  [
    'an avail idx that goes back',
    ({ queue, view, link }) => {
      queue.add([BUFFER], [ROOM]);
      queue.kick();
      queue.reap();
      link.interrupts.messages.length = 0;
      view.setUint16(queue.available + 2, 0, true);
    },
    /at most 8 ahead of 1, got 0/,
  ],
  [
    'an empty buffer',
    ({ queue }) => void queue.add([{ address: 9000, length: 0 }], []),
    /a byte or more, got 0/,
  ],
  [
    'a readable buffer after a writable one',
    ({ queue }) => {
      queue.descriptor(queue.descriptors, 0, ROOM, NEXT | WRITE, 1);
      queue.descriptor(queue.descriptors, 1, BUFFER, 0);
      queue.offer(0);
    },
    /readable buffers before writable/,
  ],
  [
    'more than 2^32 bytes in a chain',
    ({ queue }) => {
      const huge = { address: 0, length: 0xffff_ffff };
      queue.add([huge], [huge]);
    },
    /at most 2\^32 bytes/,
  ],
  [
    'an indirect table inside another',
    ({ queue }) => {
      queue.descriptor(TABLE_AT, 0, { address: 20480, length: 16 }, TABLE);
      queue.descriptor(queue.descriptors, 0, { address: TABLE_AT, length: 16 }, TABLE);
      queue.offer(0);
    },
    /no indirect table inside that of head 0/,
  ],
  [
    'an indirect table with a next',
    ({ queue }) => {
      queue.descriptor(queue.descriptors, 0, { address: TABLE_AT, length: 16 }, TABLE | NEXT, 1);
      queue.offer(0);
    },
    /nothing after the indirect table/,
  ],
  ...[0, 8, 17, 16 * (SIZE + 1), 0xffff_fff0].map((length): (typeof wrongs)[number] => [
    `an indirect table of ${length} bytes`,
    ({ queue }) => {
      queue.descriptor(queue.descriptors, 0, { address: TABLE_AT, length }, TABLE);
      queue.offer(0);
    },
    /indirect table of 1 to 8 descriptors/,
  ]),
  [
    'a next outside the indirect table',
    ({ queue }) => {
      queue.descriptor(TABLE_AT, 0, BUFFER, NEXT, 1);
      queue.descriptor(queue.descriptors, 0, { address: TABLE_AT, length: 16 }, TABLE);
      queue.offer(0);
    },
    /next descriptor of head 0 below 1, got 1/,
  ],
  [
    'a loop in an indirect table',
    ({ queue }) => {
      queue.descriptor(TABLE_AT, 0, BUFFER, NEXT, 1);
      queue.descriptor(TABLE_AT, 1, BUFFER, NEXT, 0);
      queue.descriptor(queue.descriptors, 0, { address: TABLE_AT, length: 32 }, TABLE);
      queue.offer(0);
    },
    /at most 8 buffers in a chain/,
  ],
  [
    'chains before an indirect table that are too long with it',
    ({ queue }) => {
      for (let n = 0; n < SIZE - 1; n++) {
        queue.descriptor(queue.descriptors, n, BUFFER, NEXT, n + 1);
      }
      queue.descriptor(TABLE_AT, 0, BUFFER, NEXT, 1);
      queue.descriptor(TABLE_AT, 1, BUFFER, 0);
      queue.descriptor(queue.descriptors, SIZE - 1, { address: TABLE_AT, length: 32 }, TABLE);
      queue.offer(0);
    },
    /at most 8 buffers in a chain/,
  ],
  [
    'an indirect table outside RAM',
    ({ queue }) => {
      queue.descriptor(queue.descriptors, 0, { address: FAR, length: 16 }, TABLE);
      queue.offer(0);
    },
    /DMA read/,
  ],
  [
    'a request outside RAM',
    ({ queue }) => void queue.add([{ address: FAR, length: 4 }], [ROOM]),
    /DMA read of 4 bytes/,
  ],
  [
    'a reply outside RAM',
    ({ queue }) => void queue.add([BUFFER], [{ address: FAR, length: 8 }]),
    /DMA write/,
  ],
  [
    'a buffer that wraps at 2^64',
    ({ queue, view }) => {
      queue.add([BUFFER], [ROOM]);
      view.setBigUint64(queue.descriptors, 2n ** 64n - 4n, true);
    },
    /DMA read of 8 bytes at 0xfffffffffffffffc/,
  ],
];

// Milliseconds, but on a machine that is busy: thousands of rings.
describe('a driver that breaks the rules', { timeout: 60_000 }, () => {
  it.each(wrongs)(
    'by %s gets DEVICE_NEEDS_RESET, and a device anew after it',
    (_, wrong, error) => {
      const { device, link, queue, later } = bench();
      wrong({ device, link, queue, later, view: new DataView(link.memory.buffer) });
      link.notify(0);
      expect(link.status & NEEDS_RESET).toBe(NEEDS_RESET);
      expect(link.interrupts.messages).toEqual([2]);
      expect(link.faults).toHaveLength(1);
      expect(link.faults[0]?.message).toMatch(error);
      expect(device.failed).toBeUndefined();
      // Nothing of it goes on: neither this queue nor the others.
      const { accesses } = link.dma;
      later.add([BUFFER], [ROOM]);
      for (const index of [0, 1]) link.notify(index);
      expect(link.dma.accesses).toBe(accesses);
      link.negotiate([VERSION_1]);
      const again = new DriverQueue(link, { size: SIZE, features: [VERSION_1] });
      link.ready();
      again.add([BUFFER], [ROOM]);
      again.kick();
      expect(again.reap()).toHaveLength(1);
    },
  );

  it('by indirect tables without having agreed on them', () => {
    const { link, queue } = bench([VERSION_1]);
    queue.descriptor(TABLE_AT, 0, BUFFER, 0);
    queue.descriptor(queue.descriptors, 0, { address: TABLE_AT, length: 16 }, TABLE);
    queue.offer(0);
    link.notify(0);
    expect(link.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(link.faults[0]?.message).toMatch(/INDIRECT_DESC was not negotiated/);
  });

  it.each([
    ['descriptors', Common.queueDesc],
    ['the available ring', Common.queueDriver],
    ['the used ring', Common.queueDevice],
  ])('by %s outside RAM', (_, register) => {
    for (const high of [1, 0xffff_ffff]) {
      const { link, queue } = bench();
      queue.add([BUFFER], [ROOM]);
      link.negotiate([VERSION_1, EVENT_IDX]);
      link.write(Common.configVector, 2, 2);
      link.write(Common.queueSelect, 0, 2);
      link.write(Common.queueSize, SIZE, 2);
      link.write(Common.queueDesc, queue.descriptors, 8);
      link.write(Common.queueDriver, queue.available, 8);
      link.write(Common.queueDevice, queue.used, 8);
      link.write(register + 4, high);
      link.write(Common.queueEnable, 1, 2);
      link.ready();
      expect(link.status & NEEDS_RESET).toBe(NEEDS_RESET);
      expect(link.faults.map((fault) => fault.name)).toEqual(['DmaAbort']);
      expect(link.interrupts.messages).toEqual([2]);
    }
  });

  it('by anything: it costs bounded work, and writes go where a descriptor lets them', () => {
    const word = fc.oneof(fc.nat({ max: SIZE - 1 }), fc.nat({ max: SIZE + 1 }), fc.nat(0xffff));
    const buffer = fc.record({
      address: fc.oneof(
        { weight: 9, arbitrary: fc.integer({ min: 20000, max: 21000 }) },
        { weight: 1, arbitrary: fc.constantFrom(0, 130, 2 ** 16 - 8, 2 ** 40) },
      ),
      length: fc.oneof(
        { weight: 9, arbitrary: fc.integer({ min: 1, max: 40 }) },
        { weight: 1, arbitrary: fc.constantFrom(0, 0xffff_ffff) },
      ),
      flags: fc.constantFrom(0, NEXT, WRITE, NEXT | WRITE),
      next: word,
    });
    const toTable = fc.record({
      address: fc.constant(TABLE_AT),
      length: fc.constantFrom(16, 32, 64, 128, 40, 144),
      flags: fc.constantFrom(TABLE, TABLE, TABLE | WRITE, TABLE | NEXT),
      next: word,
    });
    const table = fc.array(fc.oneof({ weight: 4, arbitrary: buffer }, toTable), {
      minLength: SIZE,
      maxLength: SIZE,
    });
    // Lengths, flags and nexts of direct descriptors, and the available ring.
    const poke = fc.record({
      at: fc.nat({ max: 150 }).filter((at) => at >= 16 * SIZE || at % 16 >= 8),
      value: fc.nat({ max: 3 }),
    });
    fc.assert(
      fc.property(
        table,
        table,
        fc.array(word, { minLength: 1, maxLength: SIZE }),
        fc.array(poke, { maxLength: 8 }),
        fc.subarray([INDIRECT, EVENT_IDX]),
        (direct, indirect, heads, pokes, more) => {
          const { device, link, queue, view } = bench([VERSION_1, ...more]);
          for (const [n, { flags, next, ...one }] of direct.entries()) {
            queue.descriptor(queue.descriptors, n, one, flags, next);
          }
          for (const [n, { flags, next, ...one }] of indirect.entries()) {
            queue.descriptor(TABLE_AT, n, one, flags, next);
          }
          for (const head of heads) queue.offer(head);
          const writable: { start: number; end: number }[] = [
            { start: queue.used + 2, end: queue.used + 6 + 8 * SIZE },
          ];
          const look = () => {
            for (const base of [queue.descriptors, TABLE_AT]) {
              for (let at = base; at < base + 16 * SIZE; at += 16) {
                if ((view.getUint16(at + 12, true) & WRITE) === 0) continue;
                const start = Number(view.getBigUint64(at, true));
                writable.push({ start, end: start + view.getUint32(at + 8, true) });
              }
            }
          };
          // What other CPUs change in the rings while they are read.
          const waiting = [...pokes];
          link.between = () => {
            look();
            const next = waiting.pop();
            if (next !== undefined) link.memory[next.at] = next.value;
          };
          const write = link.dma.writeFrom;
          link.dma.writeFrom = (iova, from) => {
            const at = Number(iova);
            const end = at + from.length;
            look();
            expect(writable.some((range) => at >= range.start && end <= range.end)).toBe(true);
            write(iova, from);
          };
          for (let n = 0; n < 3; n++) link.notify(0);
          expect(device.failed).toBeUndefined();
          for (const fault of link.faults) expect(['RingError', 'DmaAbort']).toContain(fault.name);
          const broken = (link.status & NEEDS_RESET) !== 0;
          expect(link.faults).toHaveLength(broken ? 1 : 0);
          expect(link.interrupts.messages.includes(2)).toBe(broken);
          expect(link.dma.accesses).toBeLessThan(500);
        },
      ),
      { numRuns: 500 },
    );
  });
});
