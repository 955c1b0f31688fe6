import { bit, memoryBar, PciFunction, ResetAbort, reg32, reg64, ro, ro32 } from 'sealbus/pci';

/** Adds the bytes of a buffer in guest memory: write source and length, then go; wait for done. */
export class Adder extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 0x5eb1, class: 0xff0000 };
  static override readonly interrupts = { msix: 1 };

  readonly bar0 = memoryBar(4096, {
    control: reg32(
      0x00,
      { go: bit(0), done: ro(bit(1)), error: ro(bit(2)) },
      { onWrite: (r) => r.go && this.run() },
    ),
    source: reg64(0x08),
    length: reg32(0x10),
    sum: ro32(0x14),
  });

  async run() {
    const { control } = this.bar0;
    control.go = control.done = control.error = false;
    const outcome = await this.add();
    this.complete(() => {
      control[outcome] = true;
      this.msix.raise(0);
    });
  }

  async add() {
    const { source, length } = this.bar0;
    try {
      const bytes = await this.dma.read(source, length); // decrypted by the IOMMU
      this.bar0.sum = bytes.reduce((a, b) => (a + b) >>> 0, 0);
      return 'done';
    } catch (error) {
      if (error instanceof ResetAbort) throw error;
      return 'error';
    }
  }
}
