import { DmaAbort, type DmaAccess, type DmaPort, type Iova } from '../../../src/pci/dma-port.ts';
import type {
  InterruptLink,
  PciEndpoint,
  PciLink,
  UnmodelledAccess,
} from '../../../src/pci/endpoint.ts';
import { requesterId } from '../../../src/pci/requester-id.ts';

export interface BenchOptions {
  /** Default 64 KiB. */
  readonly memoryBytes?: number;
  /** The longest DMA; default 1024, so that devices split. */
  readonly dmaMaxBytes?: number;
}

/** A function on the bench: an in-memory link that keeps what the function did. */
export class Bench implements PciLink {
  readonly memory: Uint8Array;
  readonly dma: BenchDma;
  readonly interrupts: BenchInterrupts;
  readonly accesses: UnmodelledAccess[] = [];
  readonly faults: Error[] = [];
  readonly #endpoint: PciEndpoint;

  constructor(endpoint: PciEndpoint, options: BenchOptions = {}) {
    this.memory = new Uint8Array(options.memoryBytes ?? 65536);
    this.dma = new BenchDma(this.memory, options.dmaMaxBytes);
    this.interrupts = new BenchInterrupts();
    this.#endpoint = endpoint;
    endpoint.plug(this);
  }

  unmodelled(access: UnmodelledAccess): void {
    this.accesses.push(access);
  }

  fault(error: Error): void {
    this.faults.push(error);
  }

  /** A guest's read of 1, 2 or 4 bytes. */
  read(offset: number, width: 1 | 2 | 4 = 4, bar = 0): number {
    return Number(this.readWide(offset, width, bar));
  }

  /** A guest's read of up to 8 bytes. */
  readWide(offset: number, width = 8, bar = 0): bigint {
    const bytes = new Uint8Array(8);
    this.#endpoint.readBar(bar, offset, bytes.subarray(0, width));
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  /** A guest's read of any length. */
  readBytes(offset: number, length: number, bar = 0): Uint8Array {
    const bytes = new Uint8Array(length);
    this.#endpoint.readBar(bar, offset, bytes);
    return bytes;
  }

  writeBytes(offset: number, bytes: Uint8Array, bar = 0): void {
    this.#endpoint.writeBar(bar, offset, bytes);
  }

  write(offset: number, value: number | bigint, width: 1 | 2 | 4 | 8 = 4, bar = 0): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true);
    this.#endpoint.writeBar(bar, offset, bytes.subarray(0, width));
  }
}

/** Guest memory from address 0; what lies outside is refused. */
export class BenchDma implements DmaPort {
  readonly rid = requesterId({ bus: 0, device: 4, function: 0 });
  readonly maxBytes: number;
  /** Accesses that went through or were refused. */
  accesses = 0;
  /** While set, read() and write() wait for it. */
  gate: Promise<void> | undefined;
  readonly #memory: Uint8Array;

  constructor(memory: Uint8Array, maxBytes = 1024) {
    this.#memory = memory;
    this.maxBytes = maxBytes;
  }

  readInto(iova: Iova, into: Uint8Array): void {
    const at = this.#at('read', iova, into.length);
    into.set(this.#memory.subarray(at, at + into.length));
  }

  writeFrom(iova: Iova, from: Uint8Array): void {
    this.#memory.set(from, this.#at('write', iova, from.length));
  }

  readBatch(accesses: readonly DmaAccess[], count: number): number {
    return eachOf(accesses, count, ({ iova, bytes }) => this.readInto(iova, bytes));
  }

  writeBatch(accesses: readonly DmaAccess[], count: number): number {
    return eachOf(accesses, count, ({ iova, bytes }) => this.writeFrom(iova, bytes));
  }

  async read(iova: Iova, length: number): Promise<Uint8Array> {
    await this.gate;
    const into = new Uint8Array(length);
    this.readInto(iova, into);
    return into;
  }

  async write(iova: Iova, bytes: Uint8Array): Promise<void> {
    await this.gate;
    this.writeFrom(iova, bytes);
  }

  #at(direction: 'read' | 'write', iova: Iova, length: number): number {
    if (length < 1 || length > this.maxBytes) {
      throw new RangeError(`expected 1 to ${this.maxBytes} bytes, got ${length}`);
    }
    this.accesses++;
    const at = Number(iova);
    if (at + length > this.#memory.length) {
      throw new DmaAbort(direction, iova, length, 'outside-memory');
    }
    return at;
  }
}

function eachOf(
  accesses: readonly DmaAccess[],
  count: number,
  run: (access: DmaAccess) => void,
): number {
  let refused = 0;
  for (const access of accesses.slice(0, count)) {
    access.abort = undefined;
    try {
      run(access);
    } catch (error) {
      if (!(error instanceof DmaAbort)) throw error;
      access.abort = error;
      refused++;
    }
  }
  return refused;
}

export class BenchInterrupts implements InterruptLink {
  mode: 'none' | 'intx' | 'msi' | 'msi-x' = 'msi-x';
  readonly messages: number[] = [];
  /** The level of INTA#. */
  level = false;

  enabled(): 'none' | 'intx' | 'msi' | 'msi-x' {
    return this.mode;
  }

  message(vector: number): void {
    this.messages.push(vector);
  }

  intx(asserted: boolean): void {
    this.level = asserted;
  }
}
