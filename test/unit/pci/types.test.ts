import { describe, expect, expectTypeOf, it } from 'vitest';
import {
  bit,
  bits,
  memoryBar,
  PciFunction,
  ram,
  reg16,
  reg32,
  reg64,
  regArray,
  ro,
  ro32,
} from '../../../src/pci/index.ts';

class Typed extends PciFunction {
  static override readonly id = { vendor: 1, device: 2, class: 0 };
  readonly bar0 = memoryBar(4096, {
    // Handlers may name the BAR they stand in: nothing of it is inferred from them.
    control: reg32(
      0x00,
      { go: bit(0), mode: bits(3, 1), done: ro(bit(4)) },
      { onWrite: (now, before) => now.go && !before.go && this.run() },
    ),
    length: reg32(0x04, { onWrite: (now) => expectTypeOf(now).toEqualTypeOf<number>() }),
    source: reg64(0x08, { onWrite: (now) => expectTypeOf(now).toEqualTypeOf<bigint>() }),
    sum: ro32(0x10),
    bells: regArray(4, reg32(0x100)),
    small: regArray(4, reg16(0x140)),
    wide: regArray(4, reg64(0x180)),
    memory: ram(0x200, 16),
  });

  async run() {
    this.bar0.sum = this.bar0.length;
  }
}

describe('types', () => {
  const { bar0: bar } = new Typed();

  it('follow from the layout', () => {
    expectTypeOf(bar.length).toEqualTypeOf<number>();
    expectTypeOf(bar.source).toEqualTypeOf<bigint>();
    expectTypeOf(bar.control.go).toEqualTypeOf<boolean>();
    expectTypeOf(bar.control.done).toEqualTypeOf<boolean>();
    expectTypeOf(bar.control.mode).toEqualTypeOf<number>();
    expectTypeOf(bar.control.value).toEqualTypeOf<number>();
    expectTypeOf(bar.bells).toExtend<Uint32Array>();
    expectTypeOf(bar.small).toExtend<Uint16Array>();
    expectTypeOf(bar.wide).toExtend<BigUint64Array>();
    expectTypeOf(bar.memory).toExtend<Uint8Array>();
  });

  it('refuse what is wrong, as does the run time', () => {
    // @ts-expect-error a number where the register has 64 bits
    expect(() => (bar.source = 1)).toThrow(RangeError);
    // @ts-expect-error a bigint where it has 32
    expect(() => (bar.length = 1n)).toThrow(RangeError);
    // @ts-expect-error a number for one bit
    expect(() => (bar.control.go = 1)).toThrow(TypeError);
    // @ts-expect-error a boolean for several
    expect(() => (bar.control.mode = true)).toThrow(RangeError);
    // @ts-expect-error no such register
    expect(() => (bar.lenght = 1)).toThrow(TypeError);
    // @ts-expect-error no such field
    expect(() => (bar.control.stop = true)).toThrow(TypeError);
    // @ts-expect-error a register with fields is not assigned as a whole but by its value
    expect(() => (bar.control = 1)).toThrow(TypeError);
    // @ts-expect-error fields are made by bit() and bits()
    reg32(0, { go: 0 });
    // @ts-expect-error DMA is the device's own
    expect(() => new Typed().dma).toThrow(/not plugged in/);
    expect(() => (bar.length = -1)).toThrow(/integer from 0 to 0xffffffff for register 'length'/);
    expect(() => (bar.length = 2 ** 32)).toThrow(RangeError);
    expect(() => (bar.length = 0.5)).toThrow(RangeError);
    expect(() => (bar.source = -1n)).toThrow(RangeError);
    expect(() => (bar.control.mode = 8)).toThrow(/0 to 0x7 for field 'mode' of register 'control'/);
    bar.length = 0xffff_ffff;
    bar.control.value = 0x1f;
    expect([bar.length, bar.control.mode]).toEqual([0xffff_ffff, 7]);
  });
});
