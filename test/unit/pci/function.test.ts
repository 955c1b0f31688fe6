import { describe, expect, it } from 'vitest';
import { EpochClock } from '../../../src/pci/epoch.ts';
import {
  bit,
  DmaAbort,
  type DmaPort,
  ManualClock,
  memoryBar,
  PciFunction,
  ResetAbort,
  reg32,
  reg64,
} from '../../../src/pci/index.ts';
import { Bench } from './bench.ts';

/** Copies 4 bytes from one address to another, one register a step. */
class Copier extends PciFunction {
  static override readonly id = { vendor: 1, device: 2, class: 0xff0000 };
  static override readonly interrupts = { intx: true, msi: 1, msix: 2 };

  readonly bar0 = memoryBar(4096, {
    control: reg32(0, { go: bit(0) }, { onWrite: (r) => r.go && this.copy() }),
    source: reg64(0x08),
    target: reg64(0x10),
    throwing: reg32(0x18, {
      onWrite: () => {
        throw new Error('a bug of the device');
      },
      onRead: () => {
        throw new Error('a bug when read');
      },
    }),
    rejecting: reg32(0x1c, { onWrite: () => this.fail() }),
    timer: reg32(0x20, { onWrite: (ns) => void this.arm(ns) }),
    rung: reg32(0x24),
  });
  readonly ends: string[] = [];
  kept: DmaPort | undefined;

  async copy() {
    const { source, target } = this.bar0;
    this.kept = this.dma;
    try {
      const bytes = await this.dma.read(source, 4);
      await this.dma.write(target, bytes);
      this.msix.raise(1);
    } catch (error) {
      if (error instanceof Error) this.ends.push(error.name);
      throw error;
    }
  }

  async fail() {
    await Promise.resolve();
    throw new Error('a bug, later');
  }

  arm(ns: number) {
    this.clock.after(ns, () => {
      this.bar0.rung++;
    });
  }

  get signal() {
    return this.untilReset;
  }

  get port() {
    return this.dma;
  }

  get time() {
    return this.clock;
  }

  get vectors() {
    return this.msix;
  }

  get line() {
    return this.interrupt;
  }

  override onReset(cause: string) {
    this.ends.push(`reset: ${cause}, source ${this.bar0.source}`);
  }
}

const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

function bench() {
  const clock = new ManualClock();
  const device = new Copier({ clock });
  return { clock, device, link: new Bench(device) };
}

function startCopy(link: Bench) {
  link.memory.set([1, 2, 3, 4], 0x100);
  link.write(0x08, 0x100, 8);
  link.write(0x10, 0x200, 8);
  link.write(0x00, 1);
}

describe('asynchronous work', () => {
  it('goes its way where nothing comes between', async () => {
    const { link } = bench();
    startCopy(link);
    await settled();
    expect([...link.memory.subarray(0x200, 0x204)]).toEqual([1, 2, 3, 4]);
    expect(link.interrupts.messages).toEqual([1]);
  });

  it.each([
    ['in the same turn', false],
    ['while its read is under way', true],
  ])('has no effect after a reset %s', async (_, held) => {
    const { device, link } = bench();
    let release = () => {};
    if (held) {
      link.dma.gate = new Promise((resolve) => {
        release = resolve;
      });
    }
    startCopy(link);
    if (held) await settled();
    const signal = device.signal;
    device.reset('function-level');
    release();
    await settled();
    expect([...link.memory.subarray(0x200, 0x204)]).toEqual([0, 0, 0, 0]);
    expect(link.interrupts.messages).toEqual([]);
    expect(device.ends).toEqual(['reset: function-level, source 0', 'ResetAbort']);
    expect(link.faults).toEqual([]);
    expect(device.failed).toBeUndefined();
    expect(signal.reason).toBeInstanceOf(ResetAbort);
    expect(device.signal.aborted).toBe(false);
  });

  it('cannot go on with a port it kept from before', () => {
    const { device, link } = bench();
    startCopy(link);
    device.reset('device');
    const made = link.dma.accesses;
    expect(() => device.kept?.writeFrom(0, new Uint8Array(4))).toThrow(ResetAbort);
    expect(() => device.kept?.readInto(0, new Uint8Array(4))).toThrow(ResetAbort);
    expect(link.dma.accesses).toBe(made);
    device.port.writeFrom(0, new Uint8Array([9]));
    expect(link.memory[0]).toBe(9);
  });

  it('that a reset overtook does not stop the device, even where it fails otherwise', async () => {
    const { device, link } = bench();
    link.write(0x1c, 1);
    device.reset('function-level');
    await settled();
    expect(link.faults.map(({ message }) => message)).toEqual(['a bug, later']);
    expect(device.failed).toBeUndefined();
  });
});

describe('the clock', () => {
  it('rings what is due, and nothing after a reset', () => {
    const { clock, device, link } = bench();
    link.write(0x20, 500);
    clock.advance(499);
    expect(link.read(0x24)).toBe(0);
    clock.advance(1);
    expect(link.read(0x24)).toBe(1);
    link.write(0x20, 500);
    device.reset('function-level');
    expect(clock.pending).toBe(0);
    clock.advance(1000);
    expect(link.read(0x24)).toBe(0);
  });

  it('wakes a sleeper, or rejects it at a reset', async () => {
    const { clock, device } = bench();
    const woken = device.time.sleep(10);
    clock.advance(10);
    await woken;
    const cut = device.time.sleep(10);
    device.reset('device');
    await expect(cut).rejects.toBeInstanceOf(ResetAbort);
  });

  it('refuses more alarms than its bound, and a delay that is none', () => {
    const { device } = bench();
    expect(device.time).toBeInstanceOf(EpochClock);
    for (let n = 0; n < 65536; n++) device.time.after(1, () => {});
    expect(() => device.time.after(1, () => {})).toThrow(/65536 alarms/);
    device.reset('device');
    expect(() => device.time.after(Number.NaN, () => {})).toThrow(RangeError);
    expect(() => device.time.after(-1, () => {})).toThrow(RangeError);
  });

  it('hands a callback that throws to the function', () => {
    const { clock, device, link } = bench();
    device.time.after(0, () => {
      throw new Error('a bug in a timer');
    });
    clock.advance(0);
    expect(device.failed?.message).toBe('a bug in a timer');
    expect(link.faults).toHaveLength(1);
  });

  it('moved by hand, ends alarms that set themselves again without end', () => {
    const clock = new ManualClock();
    const again = () => void clock.after(0, again);
    again();
    expect(() => clock.advance(1)).toThrow(/without end/);
  });
});

describe("a throw in the device's own code", () => {
  it.each([
    ['a handler of a write', (link: Bench) => link.write(0x18, 1)],
    ['a handler of a read', (link: Bench) => void link.read(0x18)],
    ['work that a handler started', (link: Bench) => link.write(0x1c, 1)],
  ])('from %s stops the device until a reset', async (_, provoke) => {
    const { device, link } = bench();
    link.write(0x08, 5, 8);
    provoke(link);
    await settled();
    expect(link.faults).toHaveLength(1);
    expect(device.failed).toBe(link.faults[0]);
    expect(link.read(0x08)).toBe(0xffff_ffff);
    link.write(0x08, 6, 8);
    expect(device.bar0.source).toBe(5n);
    device.reset('function-level');
    expect(link.read(0x08)).toBe(0);
    link.write(0x08, 6, 8);
    expect(link.read(0x08)).toBe(6);
  });

  it('makes the read in which it happened all ones', () => {
    const { link } = bench();
    expect(link.read(0x18)).toBe(0xffff_ffff);
  });

  it('that is a refused DMA is reported, and the device goes on', async () => {
    const { device, link } = bench();
    link.write(0x08, 0xffff_0000, 8);
    link.write(0x00, 1);
    await settled();
    expect(link.faults[0]).toBeInstanceOf(DmaAbort);
    expect(device.failed).toBeUndefined();
    startCopy(link);
    await settled();
    expect(link.interrupts.messages).toEqual([1]);
  });
});

describe('before plug()', () => {
  it('DMA, clock and interrupts say what is missing', () => {
    const device = new Copier();
    expect(() => device.port).toThrow(/Copier is not plugged in/);
    expect(() => device.time).toThrow(/not plugged in/);
    expect(() => device.vectors.raise(0)).toThrow(/not plugged in/);
    expect(() => device.line.raise()).toThrow(/not plugged in/);
  });

  it('and a second plug() is refused', () => {
    const { device, link } = bench();
    expect(() => device.plug(link)).toThrow(/plugged in already/);
  });
});

describe('interrupts', () => {
  it('MSI-X sends only where the guest enabled it, and only vectors there are', () => {
    const { device, link } = bench();
    device.vectors.raise(0);
    link.interrupts.mode = 'none';
    device.vectors.raise(1);
    expect(link.interrupts.messages).toEqual([0]);
    expect(() => device.vectors.raise(2)).toThrow(/from 0 to 1, got 2/);
    expect(() => device.vectors.raise(0.5)).toThrow(RangeError);
  });

  it('a line is a message for each raise, or the level of INTA# until it is lowered', () => {
    const { device, link } = bench();
    link.interrupts.mode = 'msi';
    device.line.raise();
    device.line.raise();
    expect([link.interrupts.messages, link.interrupts.level]).toEqual([[0, 0], false]);
    link.interrupts.mode = 'intx';
    device.line.raise();
    expect(link.interrupts.level).toBe(true);
    device.line.lower();
    expect(link.interrupts.level).toBe(false);
  });

  it('INTA# is lowered by a reset, and also where the guest changed to messages meanwhile', () => {
    const { device, link } = bench();
    link.interrupts.mode = 'intx';
    device.line.raise();
    device.reset('device');
    expect(link.interrupts.level).toBe(false);
    device.line.raise();
    link.interrupts.mode = 'msi';
    device.line.lower();
    expect(link.interrupts.level).toBe(false);
  });
});

describe('a BAR without registers', () => {
  it('reads 0 and is reported, as the one that holds the MSI-X table', () => {
    const { device, link } = bench();
    expect(device.bars[1]?.size).toBe(4096);
    expect(link.read(0, 4, 1)).toBe(0);
    expect(link.accesses).toMatchObject([{ bar: 1, offset: 0, width: 4, direction: 'read' }]);
  });
});
