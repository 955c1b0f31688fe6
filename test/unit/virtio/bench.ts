import type { PciEndpoint } from '../../../src/pci/endpoint.ts';
import type { VirtioFunction } from '../../../src/virtio/index.ts';
import { Bench, type BenchOptions } from '../pci/bench.ts';
import { ACKNOWLEDGE, Common, DRIVER, DRIVER_OK, FEATURES_OK } from './virtio-numbers.ts';

export * from './virtio-numbers.ts';

/** Of a structure, as its capability says: virtio 1.2 section 4.1.4. */
export interface Structure {
  readonly bar: number;
  readonly offset: number;
  readonly length: number;
  /** What follows the 16 bytes that all have. */
  readonly more: number;
}

/** A virtio function with what a driver finds out by its capabilities. */
export class VirtioBench extends Bench {
  readonly device: VirtioFunction;
  /** Runs before each access of the device to memory: what other CPUs do at that moment. */
  between: (() => void) | undefined;

  /** @param around what is plugged in in place of the function */
  constructor(
    device: VirtioFunction,
    options: BenchOptions = {},
    around: (device: VirtioFunction) => PciEndpoint = (inner) => inner,
  ) {
    super(around(device), { memoryBytes: 2 ** 16, ...options });
    this.device = device;
    const { dma } = this;
    const readInto = dma.readInto.bind(dma);
    const writeFrom = dma.writeFrom.bind(dma);
    dma.readInto = (iova, into) => {
      this.between?.();
      readInto(iova, into);
    };
    dma.writeFrom = (iova, from) => {
      this.between?.();
      writeFrom(iova, from);
    };
    // A batch has no order: who relies on one is found out by the reverse.
    const readBatch = dma.readBatch.bind(dma);
    const writeBatch = dma.writeBatch.bind(dma);
    dma.readBatch = (accesses, count) => readBatch(accesses.slice(0, count).reverse(), count);
    dma.writeBatch = (accesses, count) => writeBatch(accesses.slice(0, count).reverse(), count);
  }

  structure(type: number): Structure | undefined {
    for (const { id, bytes } of this.device.capabilities) {
      if (id !== 9 || bytes[3] !== type) continue;
      const values = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      return {
        bar: values.getUint8(4),
        offset: values.getUint32(8, true),
        length: values.getUint32(12, true),
        more: bytes.length > 16 ? values.getUint32(16, true) : 0,
      };
    }
    return undefined;
  }

  get status(): number {
    return this.read(Common.status, 1);
  }

  set status(value: number) {
    this.write(Common.status, value, 1);
  }

  /** Sections 3.1.1: up to FEATURES_OK. Answers the features that the device offers. */
  negotiate(features: readonly number[]): bigint {
    this.status = 0;
    this.status = ACKNOWLEDGE;
    this.status = ACKNOWLEDGE | DRIVER;
    let offered = 0n;
    for (const word of [0, 1, 2, 3]) {
      this.write(Common.deviceFeatureSelect, word);
      offered |= BigInt(this.read(Common.deviceFeature)) << BigInt(32 * word);
    }
    const wanted = features.reduce((set, bit) => set | (1n << BigInt(bit)), 0n);
    for (const word of [0, 1, 2, 3]) {
      this.write(Common.driverFeatureSelect, word);
      this.write(Common.driverFeature, (wanted >> BigInt(32 * word)) & 0xffff_ffffn);
    }
    this.status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    return offered;
  }

  ready(): void {
    this.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
  }

  notify(queue: number): void {
    const place = this.structure(2);
    this.write(Common.queueSelect, queue, 2);
    const off = this.read(Common.queueNotifyOff, 2);
    this.write((place?.offset ?? 0) + off * (place?.more ?? 0), queue, 2, place?.bar);
  }
}
