import {
  bit,
  bits,
  memoryBar,
  PciFunction,
  ram,
  reg32,
  reg64,
  regArray,
  ro,
  ro32,
  w1c32,
  wo32,
} from '../../../src/pci/index.ts';

export const AT = {
  control: 0x00,
  status: 0x04,
  wide: 0x08,
  count: 0x10,
  events: 0x14,
  doorbell: 0x18,
  rows: 0x20,
  memory: 0x40,
} as const;

/** A device of a few registers of each kind, which writes down what its handlers are told. */
export class Panel extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 3, class: 0xff0000 };
  static override readonly interrupts = { intx: true, msix: 2 };
  readonly log: string[] = [];
  readonly bar0 = memoryBar(4096, {
    control: reg32(
      AT.control,
      { go: bit(0), mode: bits(7, 4), busy: ro(bit(8)) },
      { onWrite: (now) => void this.log.push(`control go ${now.go} mode ${now.mode}`) },
    ),
    status: ro32(AT.status, { reset: 0xa5a5_0001 }),
    wide: reg64(AT.wide, { onWrite: (now) => void this.log.push(`wide ${now.toString(16)}`) }),
    count: ro32(AT.count, {
      refresh: () => {
        this.bar0.count++;
      },
    }),
    events: w1c32(AT.events, { reset: 0xff }),
    doorbell: wo32(AT.doorbell, { onWrite: (now) => void this.log.push(`doorbell ${now}`) }),
    rows: regArray(4, reg32(AT.rows)),
    memory: ram(AT.memory, 64),
  });

  /** Interrupts without a cause. */
  ring(): void {
    this.interrupt.raise();
  }

  quiet(): void {
    this.interrupt.lower();
  }

  protected override onReset(cause: string): void {
    this.log.push(`reset: ${cause}`);
  }
}
