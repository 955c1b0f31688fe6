import {
  bit,
  bits,
  DmaAbort,
  memoryBar,
  PciFunction,
  ram,
  reg16,
  reg32,
  reg64,
  regArray,
  ro32,
  wo32,
} from '../../../src/pci/index.ts';

/** Something of everything that a trace tells of: each register does one thing. */
export class TracedDevice extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 0x5eb2, class: 0xff0000 };
  static override readonly interrupts = { intx: true, msix: 4 };
  /** Of the next DMA. */
  bytes = new Uint8Array(4);

  readonly bar0 = memoryBar(4096, {
    control: reg32(0x00, { go: bit(0), mode: bits(3, 1), last: bit(31) }),
    status: ro32(0x04, { reset: 0x8000_0001 }),
    wide: reg64(0x08, { low: bits(3, 0), across: bits(35, 28), top: bits(63, 32 + 5) }),
    dmaRead: wo32(0x10, { onWrite: (at) => this.#dma(() => this.dma.readInto(at, this.bytes)) }),
    dmaWrite: wo32(0x14, { onWrite: (at) => this.#dma(() => this.dma.writeFrom(at, this.bytes)) }),
    raise: wo32(0x18, { onWrite: (vector) => this.interrupt.raise(vector) }),
    lower: wo32(0x1c, { onWrite: () => this.interrupt.lower() }),
    list: regArray(4, reg16(0x20), { stride: 8 }),
    throws: wo32(0x40, {
      onWrite: () => {
        throw new Error('thrown by the device');
      },
    }),
    /** Makes a DMA before it answers. */
    busy: ro32(0x44, { refresh: () => this.dma.readInto(0, this.bytes) }),
    window: ram(0x100, 64),
  });

  #dma(access: () => void): void {
    try {
      access();
    } catch (error) {
      if (!(error instanceof DmaAbort)) throw error;
    }
  }
}
