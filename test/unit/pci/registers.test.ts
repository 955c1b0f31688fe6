import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  bit,
  bits,
  memoryBar,
  PciFunction,
  ram,
  rc,
  reg8,
  reg16,
  reg32,
  reg64,
  regArray,
  ro,
  ro32,
  ro64,
  w1c,
  w1c32,
  wo,
  wo32,
} from '../../../src/pci/index.ts';
import { Bench } from './bench.ts';

abstract class Testee extends PciFunction {
  static override readonly id = { vendor: 1, device: 2, class: 0xff0000 };
}

/** One of everything, with holes and with neighbours that touch. */
class Everything extends Testee {
  readonly bar0 = memoryBar(4096, {
    mixed: reg32(0x00, {
      go: bit(0),
      done: ro(bit(1, { reset: true })),
      error: w1c(bit(2, { reset: true })),
      level: bits(11, 4, { reset: 0x5a }),
      seen: rc(bits(13, 12, { reset: 3 })),
    }),
    plain: reg32(0x04, { reset: 0x1234_5678 }),
    wide: reg64(0x08, { reset: 0x0123_4567_89ab_cdefn }),
    fixed: ro32(0x10, { reset: 0xcafe_f00d }),
    fixedWide: ro64(0x18, { reset: 0x1122_3344_5566_7788n }),
    sticky: w1c32(0x20, { reset: 0xffff_ffff }),
    command: wo32(0x24),
    bytes: reg32(0x28, { widths: [1, 2, 4], mask: 0x00ff_ffff }),
    half: reg16(0x2c, { reset: 0xbeef }),
    small: reg8(0x2e, { reset: 0x42 }),
    doorbells: regArray(4, reg32(0x100), { stride: 8 }),
    queues: regArray(3, reg16(0x140)),
    memory: ram(0x200, 64),
  });
}

function bench() {
  const device = new Everything();
  return { device, bar: device.bar0, bench: new Bench(device) };
}

/** What each register holds, as device code sees it, by name and place. */
function snapshot(bar: Everything['bar0']): { at: number; end: number; value: unknown }[] {
  const places = {
    mixed: [0x00, 4, bar.mixed.value],
    plain: [0x04, 4, bar.plain],
    wide: [0x08, 8, bar.wide],
    fixed: [0x10, 4, bar.fixed],
    fixedWide: [0x18, 8, bar.fixedWide],
    sticky: [0x20, 4, bar.sticky],
    command: [0x24, 4, bar.command],
    bytes: [0x28, 4, bar.bytes],
    half: [0x2c, 2, bar.half],
    small: [0x2e, 1, bar.small],
  } as const;
  const rows: { at: number; end: number; value: unknown }[] = [];
  for (const [at, length, value] of Object.values(places)) {
    rows.push({ at, end: at + length, value });
  }
  bar.doorbells.forEach((value, n) => {
    rows.push({ at: 0x100 + 8 * n, end: 0x104 + 8 * n, value });
  });
  bar.queues.forEach((value, n) => {
    rows.push({ at: 0x140 + 2 * n, end: 0x142 + 2 * n, value });
  });
  bar.memory.forEach((value, n) => {
    rows.push({ at: 0x200 + n, end: 0x201 + n, value });
  });
  return rows;
}

const where = fc.oneof(fc.nat(0x60), fc.integer({ min: 0xf8, max: 0x250 }), fc.nat(4095));
const access = fc.record({
  offset: where,
  bytes: fc.uint8Array({ minLength: 1, maxLength: 20 }),
});

describe('any access inside the BAR', () => {
  it('never throws, and a write alters nothing outside its range', () => {
    const { device, bar, bench: link } = bench();
    fc.assert(
      fc.property(access, ({ offset, bytes }) => {
        const from = bytes.subarray(0, 4096 - offset);
        const before = snapshot(bar);
        device.writeBar(0, offset, from);
        const after = snapshot(bar);
        for (const [n, { at, end, value }] of before.entries()) {
          if (at >= offset + from.length || end <= offset) expect(after[n]?.value).toBe(value);
        }
        device.readBar(0, offset, new Uint8Array(from.length));
        expect(link.faults).toEqual([]);
      }),
      { numRuns: 1000 },
    );
  });

  it('never alters a read-only bit or sets a reserved one', () => {
    const { device, bar } = bench();
    fc.assert(
      fc.property(access, ({ offset, bytes }) => {
        device.writeBar(0, offset, bytes.subarray(0, 4096 - offset));
        expect(bar.mixed.done).toBe(true);
        expect(bar.fixed).toBe(0xcafe_f00d);
        expect(bar.fixedWide).toBe(0x1122_3344_5566_7788n);
        expect((bar.mixed.value & ~0x3ff7) >>> 0).toBe(0);
        expect((bar.bytes & 0xff00_0000) >>> 0).toBe(0);
      }),
      { numRuns: 1000 },
    );
  });

  it('reads plain registers and memory the same whole or in any pieces it accepts', () => {
    const { device, bench: link } = bench();
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), (value) => {
        link.write(0x08, value, 8);
        link.write(0x200, value, 8);
        for (const at of [0x08, 0x200]) {
          expect(link.readWide(at)).toBe(value);
          const halves = BigInt(link.read(at)) | (BigInt(link.read(at + 4)) << 32n);
          expect(halves).toBe(value);
        }
        const across = new Uint8Array(5);
        device.readBar(0, 0x203, across);
        const expected = Array.from({ length: 5 }, (_, n) =>
          Number((value >> BigInt(8 * (n + 3))) & 0xffn),
        );
        expect([...across]).toEqual(expected);
      }),
    );
  });

  it('is put back to the reset values by a reset, whatever was written', () => {
    const { device, bar } = bench();
    const fresh = snapshot(bar);
    fc.assert(
      fc.property(fc.array(access, { maxLength: 20 }), (accesses) => {
        for (const { offset, bytes } of accesses) {
          device.writeBar(0, offset, bytes.subarray(0, 4096 - offset));
        }
        device.reset('function-level');
        expect(snapshot(bar)).toEqual(fresh);
      }),
    );
  });
});

describe('bits by their kind', () => {
  it('w1c: ones clear, zeros keep', () => {
    const { device, bar, bench: link } = bench();
    const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
    fc.assert(
      fc.property(u32, u32, (held, written) => {
        bar.sticky = held;
        link.write(0x20, written);
        expect(bar.sticky).toBe((held & ~written) >>> 0);
        expect(link.read(0x20)).toBe((held & ~written) >>> 0);
      }),
    );
    device.reset('device');
    link.write(0x00, 0);
    expect(bar.mixed.error).toBe(true);
    link.write(0x00, 1 << 2);
    expect(bar.mixed.error).toBe(false);
  });

  it('rc: a read gives them and clears them', () => {
    const { bar, bench: link } = bench();
    expect((link.read(0x00) >>> 12) & 3).toBe(3);
    expect(bar.mixed.seen).toBe(0);
    expect((link.read(0x00) >>> 12) & 3).toBe(0);
    link.write(0x00, 3 << 12);
    expect(bar.mixed.seen).toBe(0);
  });

  it('wo: the device sees what was written, the guest reads 0', () => {
    const { bar, bench: link } = bench();
    link.write(0x24, 0xdead_beef);
    expect(bar.command).toBe(0xdead_beef);
    expect(link.read(0x24)).toBe(0);
    expect(link.accesses).toEqual([]);
  });

  it('wo fields of 64 bits read 0 in either half, whole or alone', () => {
    class Secret extends Testee {
      readonly bar0 = memoryBar(16, {
        r: reg64(0, { low: wo(bit(1)), high: wo(bit(40)), x: bit(41) }),
      });
    }
    const device = new Secret();
    const link = new Bench(device);
    link.write(0, (1n << 64n) - 1n, 8);
    expect([device.bar0.r.low, device.bar0.r.high]).toEqual([true, true]);
    expect(link.readWide(0)).toBe(1n << 41n);
    expect([link.read(0), link.read(4)]).toEqual([0, 1 << 9]);
  });

  it('device code sets any bit, and no handler runs', () => {
    const { bar, bench: link } = bench();
    bar.mixed.done = false;
    bar.mixed.level = 0xff;
    bar.fixed = 7;
    expect(link.read(0x00)).toBe(0x0000_3ff4);
    expect(link.read(0x10)).toBe(7);
  });

  it('fields of 64 bits across the middle keep their neighbours', () => {
    class Wide extends Testee {
      readonly bar0 = memoryBar(16, {
        r: reg64(0, { low: bits(11, 0), middle: bits(51, 12), top: bit(63) }),
      });
    }
    const { r } = new Wide().bar0;
    fc.assert(
      fc.property(fc.nat(0xfff), fc.maxSafeNat(), fc.boolean(), (low, middle, top) => {
        const forty = middle % 2 ** 40;
        r.low = low;
        r.middle = forty;
        r.top = top;
        expect([r.low, r.middle, r.top]).toEqual([low, forty, top]);
        expect(r.value).toBe(BigInt(low) | (BigInt(forty) << 12n) | (top ? 1n << 63n : 0n));
      }),
    );
  });
});

describe('access widths', () => {
  it('a 32-bit register takes 4 bytes; others are reported and do nothing', () => {
    const { bar, bench: link } = bench();
    expect(link.read(0x04, 2)).toBe(0);
    link.write(0x06, 0xff, 1);
    expect(bar.plain).toBe(0x1234_5678);
    expect(link.accesses).toEqual([
      {
        bar: 0,
        offset: 4,
        width: 2,
        direction: 'read',
        why: 'the register does not take this width',
      },
      {
        bar: 0,
        offset: 6,
        width: 1,
        direction: 'write',
        why: 'the register does not take this width',
      },
    ]);
  });

  it('one that takes bytes merges them', () => {
    const { bar, bench: link } = bench();
    link.write(0x28, 0x0011_2233);
    link.write(0x29, 0xaa, 1);
    link.write(0x2a, 0xffbb, 2);
    expect(bar.bytes).toBe(0x00bb_aa33);
    expect(link.read(0x29, 1)).toBe(0xaa);
    expect(link.accesses).toEqual([]);
  });

  it('8 bytes over two 32-bit registers reach both, in rising order', () => {
    const { bar, bench: link } = bench();
    link.write(0x00, 0xaaaa_bbbb_0000_0001n, 8);
    expect(bar.mixed.go).toBe(true);
    expect(bar.plain).toBe(0xaaaa_bbbb);
    expect(link.readWide(0x00) >> 32n).toBe(0xaaaa_bbbbn);
  });

  it('4 bytes over narrow registers reach them; the byte without one is reported', () => {
    const { bench: link } = bench();
    expect(link.read(0x2c)).toBe(0x0042_beef);
    expect(link.accesses.map(({ offset, width }) => [offset, width])).toEqual([[0x2f, 1]]);
  });

  it('elements of an array, and the gaps between them', () => {
    const { bar, bench: link } = bench();
    link.write(0x108, 7);
    link.write(0x142, 9, 2);
    expect([...bar.doorbells]).toEqual([0, 7, 0, 0]);
    expect([...bar.queues]).toEqual([0, 9, 0]);
    expect(link.read(0x104)).toBe(0);
    expect(link.accesses).toHaveLength(1);
    bar.doorbells[3] = 5;
    expect(link.read(0x118)).toBe(5);
  });

  it('a hole reads zeros or, where the author says so, ones', () => {
    class Ones extends Testee {
      readonly bar0 = memoryBar(64, { r: reg32(0) }, { unmodelled: 'ones' });
    }
    const link = new Bench(new Ones());
    expect(link.read(0x20)).toBe(0xffff_ffff);
    expect(link.readWide(0x20)).toBe(0xffff_ffff_ffff_ffffn);
    expect(link.accesses.map(({ width }) => width)).toEqual([4, 8]);
    expect(bench().bench.read(0x800)).toBe(0);
  });

  it('registers far apart in a large BAR do not alias', () => {
    class Sparse extends Testee {
      readonly bar0 = memoryBar(
        2 ** 34,
        { a: reg32(0, { reset: 1 }), b: reg32(0x3_0000_0000, { reset: 2 }) },
        { width: 64 },
      );
    }
    const link = new Bench(new Sparse());
    expect([link.read(0), link.read(0x3_0000_0000), link.read(0x1_0000_0000)]).toEqual([1, 2, 0]);
    class Small extends Testee {
      readonly bar0 = memoryBar(2 ** 34, { a: reg32(0, { reset: 1 }) }, { width: 64 });
    }
    expect(new Bench(new Small()).read(0x1_0000_0000)).toBe(0);
  });
});

describe('handlers', () => {
  it('get the value and what was there before, once for each write', () => {
    const seen: unknown[] = [];
    class Handled extends Testee {
      readonly bar0 = memoryBar(4096, {
        plain: reg32(0, { onWrite: (now, before) => void seen.push([now, before]) }),
        wide: reg64(8, { onWrite: (now, before) => void seen.push([now, before]) }),
        fields: reg32(
          16,
          { a: bit(0), b: bits(31, 8) },
          { onWrite: (now, before) => void seen.push([now.a, now.b, before.a, before.b]) },
        ),
        fixed: ro32(20, { onWrite: () => void seen.push('read-only') }),
        bells: regArray(3, reg16(32, { onWrite: (v, _, n) => void seen.push(['bell', n, v]) })),
      });
    }
    const link = new Bench(new Handled());
    link.write(0, 0xffff_ffff);
    link.write(0, 1);
    link.write(8, 1n << 63n, 8);
    link.write(12, 1);
    link.write(16, 0x0000_0201);
    link.write(16, 0xffff_ff00);
    link.write(20, 1);
    link.write(34, 5, 2);
    expect(seen).toEqual([
      [0xffff_ffff, 0],
      [1, 0xffff_ffff],
      [1n << 63n, 0n],
      [1n << 32n, 1n << 63n],
      [true, 2, false, 0],
      [false, 0xff_ffff, true, 2],
      ['bell', 1, 5],
    ]);
  });

  it('refresh runs before a read takes the value, onRead after', () => {
    class Reading extends Testee {
      reads = 0;
      readonly bar0 = memoryBar(16, {
        counter: ro32(0, {
          refresh: () => {
            this.bar0.counter = ++this.reads;
          },
        }),
        latch: reg32(4, {
          reset: 9,
          onRead: () => {
            this.bar0.latch = 0;
          },
        }),
      });
    }
    const link = new Bench(new Reading());
    expect([link.read(0), link.read(0)]).toEqual([1, 2]);
    expect([link.read(4), link.read(4)]).toEqual([9, 0]);
  });

  it('lockedWhile drops writes, and their handlers', () => {
    let runs = 0;
    class Locked extends Testee {
      busy = false;
      readonly bar0 = memoryBar(16, {
        r: reg32(0, { lockedWhile: () => this.busy, onWrite: () => void runs++ }),
      });
    }
    const device = new Locked();
    const link = new Bench(device);
    link.write(0, 1);
    device.busy = true;
    link.write(0, 2);
    expect([device.bar0.r, runs]).toEqual([1, 1]);
  });
});
