import { describe, expect, it } from 'vitest';
import { CapabilityId } from '../../../src/pci/capability/capability.ts';
import { memoryBar, PciFunction, reg32 } from '../../../src/pci/index.ts';
import { MsiForMsix } from '../../../src/pci/msi-for-msix.ts';
import { Bench } from './bench.ts';

/** Raises the vector that is written; INTA# goes up and down by the second register. */
class Bell extends PciFunction {
  static override readonly id = { vendor: 1, device: 2, class: 0xff0000 };
  static override readonly interrupts = { intx: true, msix: 48 };

  readonly resets: string[] = [];
  readonly bar0 = memoryBar(4096, {
    ring: reg32(0, { onWrite: (vector) => this.msix.raise(vector) }),
    pin: reg32(4, {
      onWrite: (up) => (up === 1 ? this.interrupt.raise() : this.interrupt.lower()),
    }),
  });

  protected override onReset(): void {
    this.resets.push('reset');
  }
}

class Quiet extends PciFunction {
  static override readonly id = { vendor: 1, device: 3, class: 0xff0000 };
  static override readonly interrupts = { msi: 2 };
}

function bench() {
  const inner = new Bell();
  const endpoint = MsiForMsix.around(inner);
  return { inner, endpoint, bench: new Bench(endpoint) };
}

describe('a function with MSI-X that has MSI in its place', () => {
  it('shows MSI alone, with a power of two of its vectors, and else what it is', () => {
    const { inner, endpoint } = bench();
    const ids = endpoint.capabilities.map(({ id }) => id);
    expect(ids).not.toContain(CapabilityId.msix);
    const [msi] = endpoint.capabilities.filter(({ id }) => id === CapabilityId.msi);
    // Multiple Message Capable, PCI Local Bus 3.0 §6.8.1.3: 2^5.
    expect((msi?.bytes[2] ?? 0) >> 1).toBe(5 | 0x40);
    expect(endpoint.interruptVectors).toEqual({ intx: 1, msi: 32, msix: 0 });
    expect(endpoint.bars).toEqual(inner.bars);
    expect(endpoint.registerMap).toEqual(inner.registerMap);
  });

  it('is told of MSI-X where the guest has enabled MSI, and its messages go out', () => {
    const { bench: link } = bench();
    link.interrupts.mode = 'msi';
    link.write(0, 7);
    link.write(0, 31);
    expect(link.interrupts.messages).toEqual([7, 31]);
    // No driver was given it.
    link.write(0, 32);
    expect(link.interrupts.messages).toEqual([7, 31]);
    expect(link.faults).toEqual([]);
    link.interrupts.mode = 'none';
    link.write(0, 7);
    expect(link.interrupts.messages).toEqual([7, 31]);
  });

  it('drives its pin, is reached and reset as before', () => {
    const { inner, endpoint, bench: link } = bench();
    link.interrupts.mode = 'intx';
    link.write(4, 1);
    expect(link.interrupts.level).toBe(true);
    expect(link.read(4)).toBe(1);
    endpoint.reset('device');
    expect(link.read(4)).toBe(0);
    expect(inner.resets.length).toBeGreaterThan(0);
    expect(link.interrupts.level).toBe(false);
  });
});

it('a function without MSI-X is left as it is', () => {
  const quiet = new Quiet();
  expect(MsiForMsix.around(quiet)).toBe(quiet);
});
