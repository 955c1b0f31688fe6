import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Edu, type EduOptions } from '../../../src/devices/edu/edu.ts';
import { configSpace } from '../../../src/pci/config-space.ts';
import { ManualClock } from '../../../src/pci/index.ts';
import { Bench } from '../pci/bench.ts';

const ID = 0x00;
const LIVENESS = 0x04;
const FACTORIAL = 0x08;
const STATUS = 0x20;
const IRQ_STATUS = 0x24;
const IRQ_RAISE = 0x60;
const IRQ_ACK = 0x64;
const DMA_SRC = 0x80;
const DMA_DST = 0x88;
const DMA_COUNT = 0x90;
const DMA_COMMAND = 0x98;

const BUFFER = 0x40000;

const START = 1;
const TO_RAM = 2;
const DMA_IRQ = 4;

function bench(options: EduOptions = {}) {
  const clock = new ManualClock();
  const edu = new Edu({ clock, delayNs: 1000, ...options });
  const link = new Bench(edu);
  link.interrupts.mode = 'intx';
  const dma = (
    source: number | bigint,
    target: number | bigint,
    count: number | bigint,
    command: number,
  ) => {
    link.write(DMA_SRC, source, 8);
    link.write(DMA_DST, target, 8);
    link.write(DMA_COUNT, count, 8);
    link.write(DMA_COMMAND, command, 8);
  };
  return { clock, edu, link, dma };
}

describe('edu as its specification has it', () => {
  it('is 1234:11e8 revision 0x10, conventional, with one INTx pin and one 64-bit MSI vector', () => {
    const { bytes } = configSpace(new Edu());
    const header = new DataView(bytes.buffer);
    expect(bytes).toHaveLength(256);
    expect(header.getUint32(0, true)).toBe(0x11e8_1234);
    expect(header.getUint32(8, true)).toBe(0x00ff_0010);
    expect(header.getUint8(0x3d)).toBe(1);
    const at = header.getUint8(0x34);
    expect([header.getUint8(at), header.getUint8(at + 1)]).toEqual([0x05, 0]);
    expect(header.getUint16(at + 2, true)).toBe(0x0080);
    expect(new Edu().bars.map((bar) => bar?.size)).toEqual([2 ** 20, ...Array(5).fill(undefined)]);
  });

  it('identifies itself as 0xRRrr00ed, whatever is written there', () => {
    const { link } = bench();
    link.write(ID, 0);
    expect((link.read(ID) & 0xffff) >>> 0).toBe(0x00ed);
    expect(link.read(ID) >>> 24).toBe(1);
  });

  it('inverts what is written to the liveness register', () => {
    const { link } = bench();
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffff_ffff }), (value) => {
        link.write(LIVENESS, value);
        expect(link.read(LIVENESS)).toBe(0xffff_ffff - value);
      }),
    );
  });

  it('computes factorials modulo 2^32, busy until it is done', () => {
    const { clock, link } = bench();
    const expected = (n: number) => {
      let product = 1n;
      for (let factor = 2n; factor <= BigInt(n); factor++) product *= factor;
      return Number(product & 0xffff_ffffn);
    };
    for (let n = 0; n <= 50; n++) {
      link.write(FACTORIAL, n);
      expect(link.read(STATUS) & 1).toBe(1);
      link.write(FACTORIAL, 3);
      clock.advance(999);
      expect(link.read(FACTORIAL)).toBe(n);
      clock.advance(1);
      expect(link.read(STATUS) & 1).toBe(0);
      expect(link.read(FACTORIAL)).toBe(expected(n));
    }
    link.write(FACTORIAL, 0xffff_ffff);
    clock.advance(1000);
    expect(link.read(FACTORIAL)).toBe(0);
    expect(link.read(IRQ_STATUS)).toBe(0);
  });

  it('raises cause 0x01 after a factorial where status bit 0x80 is set', () => {
    const { clock, link } = bench();
    link.write(STATUS, 0xffff_ffff);
    expect(link.read(STATUS)).toBe(0x80);
    link.write(FACTORIAL, 5);
    clock.advance(1000);
    expect(link.read(IRQ_STATUS)).toBe(1);
    expect(link.interrupts.level).toBe(true);
  });

  it('collects causes, and keeps INTA# up until the last is acknowledged', () => {
    const { link } = bench();
    link.write(IRQ_RAISE, 0x11);
    link.write(IRQ_RAISE, 0x8000_0000);
    expect(link.read(IRQ_STATUS)).toBe(0x8000_0011);
    link.write(IRQ_ACK, 0x8000_0001);
    expect([link.read(IRQ_STATUS), link.interrupts.level]).toEqual([0x10, true]);
    link.write(IRQ_ACK, 0x10);
    expect([link.read(IRQ_STATUS), link.interrupts.level]).toEqual([0, false]);
    link.write(IRQ_RAISE, 0);
    expect(link.interrupts.level).toBe(false);
  });

  it('sends an MSI for each raise where MSI is enabled', () => {
    const { link } = bench();
    link.interrupts.mode = 'msi';
    link.write(IRQ_RAISE, 1);
    link.write(IRQ_RAISE, 2);
    expect(link.interrupts.messages).toEqual([0, 0]);
    expect(link.interrupts.level).toBe(false);
  });

  it('takes 4 bytes below 0x80, 4 or 8 above; QEMU’s value for all else; and reports it', () => {
    const { link } = bench();
    const ones = 0xffff_ffff_ffff_ffffn;
    link.write(DMA_SRC, 0x1_2345_6789n, 8);
    expect(link.readWide(DMA_SRC)).toBe(0x1_2345_6789n);
    expect(link.read(DMA_SRC)).toBe(0x2345_6789);
    expect(link.accesses).toEqual([]);
    expect(link.read(DMA_SRC + 4)).toBe(0xffff_ffff);
    expect(link.readWide(ID)).toBe(ones);
    expect(link.read(0x0c)).toBe(0xffff_ffff);
    expect(link.read(BUFFER)).toBe(0xffff_ffff);
    expect(link.read(ID, 2)).toBe(0);
    expect(link.read(ID, 1)).toBe(0);
    expect(link.accesses).toHaveLength(6);
    expect(link.read(IRQ_RAISE)).toBe(0xffff_ffff);
    link.write(LIVENESS, ones, 8);
    expect(link.read(LIVENESS)).toBe(0);
    // A write of 4 bytes clears the upper half of a DMA register.
    link.write(DMA_SRC, 0x1000);
    expect(link.readWide(DMA_SRC)).toBe(0x1000n);
    // And one to the upper half is dropped.
    link.write(DMA_SRC + 4, 5);
    expect(link.readWide(DMA_SRC)).toBe(0x1000n);
  });

  it('has its busy bits seen and its work done by the next turns of the event loop', async () => {
    const link = new Bench(new Edu());
    link.write(FACTORIAL, 6);
    expect(link.read(STATUS)).toBe(1);
    for (let turn = 0; turn < 3; turn++) await new Promise<void>((done) => setImmediate(done));
    expect([link.read(STATUS), link.read(FACTORIAL)]).toEqual([0, 720]);
  });
});

describe('the DMA engine of edu', () => {
  it('moves any range of its buffer both ways, and alters nothing else', () => {
    const { clock, edu, link, dma } = bench();
    const range = fc
      .tuple(fc.nat(4096), fc.nat(4096))
      .map(([a, b]) => ({ start: Math.min(a, b), count: Math.abs(a - b) }));
    const address = fc.nat(65536 - 4096);
    fc.assert(
      fc.property(range, address, address, ({ start, count }, from, to) => {
        edu.buffer.fill(0xee);
        link.memory.forEach((_, at) => {
          link.memory[at] = at * 31 + (at >> 8);
        });
        const sent = link.memory.slice(from, from + count);
        const expected = link.memory.slice();
        dma(from, BUFFER + start, count, START);
        clock.advance(1000);
        const buffer = new Uint8Array(4096).fill(0xee);
        buffer.set(sent, start);
        expect(Buffer.compare(edu.buffer, buffer)).toBe(0);
        dma(BUFFER + start, to, count, START | TO_RAM);
        clock.advance(1000);
        expected.set(sent, to);
        expect(Buffer.compare(link.memory, expected)).toBe(0);
      }),
      { numRuns: 30 },
    );
    expect(edu.dmaCounters.refused).toBe(0);
  });

  it('is busy until it is done: registers hold still, then the start bit clears', () => {
    const { clock, link, dma } = bench();
    dma(0, BUFFER, 16, START | DMA_IRQ);
    dma(0x5000, 0x6000, 1, START);
    expect(link.readWide(DMA_SRC)).toBe(0n);
    expect(link.readWide(DMA_COUNT)).toBe(16n);
    expect(link.read(DMA_COMMAND)).toBe(START | DMA_IRQ);
    expect(link.read(IRQ_STATUS)).toBe(0);
    clock.advance(1000);
    expect(link.read(DMA_COMMAND)).toBe(DMA_IRQ);
    expect(link.read(IRQ_STATUS)).toBe(0x100);
    expect(link.interrupts.level).toBe(true);
  });

  it('drops a command without the start bit', () => {
    const { clock, edu, link } = bench();
    link.write(DMA_COMMAND, TO_RAM | DMA_IRQ);
    clock.advance(1000);
    expect(link.read(DMA_COMMAND)).toBe(0);
    expect(edu.dmaCounters.transfers).toBe(0);
  });

  it('cuts RAM addresses to its mask: 28 bits, or what the option says', () => {
    const { clock, edu, link, dma } = bench();
    link.memory.set([1, 2, 3, 4], 0x100);
    dma(0xf000_0100, BUFFER, 4, START);
    clock.advance(1000);
    expect([...edu.buffer.subarray(0, 4)]).toEqual([1, 2, 3, 4]);
    expect(edu.dmaCounters.clamped).toBe(1);
    const wide = bench({ dmaMask: (1n << 64n) - 1n });
    wide.dma(0xf000_0100, BUFFER, 4, START);
    wide.clock.advance(1000);
    expect(wide.edu.lastRefusal?.why).toBe('refused by the IOMMU');
    expect(() => bench({ dmaMask: 0n })).toThrow(RangeError);
    expect(() => bench({ dmaMask: 1n << 64n })).toThrow(RangeError);
  });

  it('moves nothing where a transfer leaves the buffer, and completes all the same', () => {
    const { clock, edu, link, dma } = bench();
    const before = link.memory.slice();
    const u64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
    const outside = fc
      .tuple(fc.oneof(u64, fc.bigInt({ min: 0x3fff0n, max: 0x41010n })), u64, fc.boolean())
      .filter(([start, count]) => start < 0x40000n || start + count > 0x41000n);
    fc.assert(
      fc.property(outside, ([start, count, toRam]) => {
        link.write(IRQ_ACK, 0xffff_ffff);
        dma(toRam ? start : 0, toRam ? 0 : start, count, START | DMA_IRQ | (toRam ? TO_RAM : 0));
        clock.advance(1000);
        expect(edu.lastRefusal).toMatchObject({ why: 'outside the buffer', count });
        expect(link.read(DMA_COMMAND) & START).toBe(0);
        expect(link.read(IRQ_STATUS)).toBe(0x100);
      }),
    );
    expect(Buffer.compare(link.memory, before)).toBe(0);
    expect(edu.buffer.every((byte) => byte === 0)).toBe(true);
    expect(link.faults).toEqual([]);
    expect(link.dma.accesses).toBe(0);
  });

  it('has no effect when a reset comes first, and the device is as new', () => {
    const { clock, edu, link, dma } = bench();
    link.memory.fill(7);
    dma(0, BUFFER, 100, START | DMA_IRQ);
    link.write(FACTORIAL, 5);
    link.write(IRQ_RAISE, 1);
    edu.reset('function-level');
    expect(link.interrupts.level).toBe(false);
    clock.advance(1_000_000);
    expect(link.dma.accesses).toBe(0);
    expect([link.read(IRQ_STATUS), link.read(STATUS), link.read(FACTORIAL)]).toEqual([0, 0, 0]);
    expect(link.readWide(DMA_COMMAND)).toBe(0n);
    dma(0, BUFFER, 100, START);
    clock.advance(1000);
    expect(edu.buffer[99]).toBe(7);
  });
});
