import { describe, expect, it } from 'vitest';
import {
  bit,
  bits,
  ioBar,
  memoryBar,
  PciFunction,
  ram,
  reg16,
  reg32,
  reg64,
  regArray,
} from '../../../src/pci/index.ts';

abstract class Testee extends PciFunction {
  static override readonly id = { vendor: 1, device: 2, class: 0xff0000 };
}

describe('a BAR is refused when it is made, naming the register', () => {
  it.each([
    ['overlapping', () => memoryBar(64, { a: reg64(0), b: reg32(4) }), /'b' at 0x4.*'a' at 0x0/],
    ['in memory', () => memoryBar(64, { a: ram(0, 16), b: reg32(12) }), /'b' at 0xc.*'a'/],
    [
      'overlapping an array element',
      () => memoryBar(64, { bells: regArray(4, reg32(0), { stride: 8 }), b: reg32(16) }),
      /'b' at 0x10|'bells\[2\]'/,
    ],
    ['misaligned', () => memoryBar(64, { source: reg64(4) }), /'source' of 8 bytes at a multiple/],
    ['outside', () => memoryBar(64, { late: reg32(64) }), /'late' at 0x40 .*outside/],
    ['huge memory', () => memoryBar(64, { m: ram(0, 2 ** 50) }), /'m'.*outside/],
    ['negative', () => memoryBar(64, { r: reg32(-4) }), /'r'/],
    ['a stride too short', () => memoryBar(64, { r: regArray(2, reg32(0), { stride: 2 }) }), /'r'/],
    ['too many elements', () => memoryBar(2 ** 24, { r: regArray(2 ** 20, reg32(0)) }), /'r'/],
    ['size', () => memoryBar(100, {}), /power of two from 16/],
    ['I/O size', () => ioBar(512, {}), /power of two from 4 to 256/],
    ['field outside', () => memoryBar(64, { r: reg16(0, { f: bit(16) }) }), /field 'f'.*'r'/],
    [
      'overlapping fields',
      () => memoryBar(64, { r: reg32(0, { f: bits(7, 0), g: bit(7) }) }),
      /field 'g' of register 'r' overlaps/,
    ],
    ['reset value', () => memoryBar(64, { r: reg16(0, { reset: 65536 }) }), /'r'/],
    ['a field named value', () => memoryBar(64, { r: reg32(0, { value: bit(0) }) }), /'value'/],
    ['a width above its own', () => memoryBar(64, { r: reg32(0, { widths: [8] }) }), /'r'/],
    ['a field too wide', () => bits(60, 0), /at most 53 bits/],
    ['bits the wrong way round', () => bits(0, 7), /high >= low/],
  ])('%s', (_, make, message) => {
    expect(make).toThrow(message);
  });
});

describe('a function is refused when it is looked at, naming the class', () => {
  it('with a 64-bit BAR at index 5', () => {
    class Last extends Testee {
      readonly bar5 = memoryBar(64, {}, { width: 64 });
    }
    expect(() => new Last().bars).toThrow(/Last: bar5 is the last/);
  });

  it('with a BAR in the upper half of another', () => {
    class Clash extends Testee {
      readonly bar0 = memoryBar(64, {}, { width: 64 });
      readonly bar1 = memoryBar(64, {});
    }
    expect(() => new Clash().bars).toThrow(/Clash: bar0 has 64 bits and takes bar1/);
  });

  it('with a seventh BAR, or one by another name', () => {
    class Seven extends Testee {
      readonly bar6 = memoryBar(64, {});
    }
    expect(() => new Seven().bars).toThrow(/bar0 to bar5, got 'bar6'/);
  });

  it('with the MSI-X table over a register', () => {
    class Over extends Testee {
      static override readonly interrupts = { msix: { vectors: 4, bar: 0, offset: 0x10 } };
      readonly bar0 = memoryBar(4096, { victim: reg32(0x20) });
    }
    expect(() => new Over().bars).toThrow(/'victim' at 0x20.*'MSI-X table'/);
  });

  it('with a MSI-X table that no BAR can hold', () => {
    class Full extends Testee {
      static override readonly interrupts = { msix: 1 };
      readonly bar0 = memoryBar(64, {}, { width: 64 });
      readonly bar2 = memoryBar(64, {}, { width: 64 });
      readonly bar4 = memoryBar(64, { r: reg32(0) }, { width: 64 });
    }
    // The empty BARs of 64 bytes do have room for one vector's 24 bytes.
    expect(new Full().bars.filter((bar) => bar !== undefined)).toHaveLength(3);
    class Fuller extends Full {
      static override readonly interrupts = { msix: 64 };
    }
    expect(() => new Fuller().bars).toThrow(/no BAR is free for the MSI-X table/);
  });

  it.each([{ msi: -1 }, { msi: 3 }, { msix: -1 }, { msix: 2049 }])(
    'with a number of vectors that there cannot be: %j',
    (interrupts) => {
      class Odd extends Testee {
        static override readonly interrupts = interrupts;
      }
      expect(() => new Odd().capabilities).toThrow(/Odd: expected .* MSI(-X)? vectors, got/);
    },
  );

  it('without an id, or with one that does not fit', () => {
    class Nameless extends PciFunction {}
    expect(() => new Nameless().identity).toThrow(/Nameless: expected static readonly id/);
    class Wide extends PciFunction {
      static override readonly id = { vendor: 0x10000, device: 0, class: 0 };
    }
    expect(() => new Wide().identity).toThrow(/vendor of 16 bits/);
  });
});
