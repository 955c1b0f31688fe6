import { randomBytes } from 'node:crypto';
import { VirtioFunction, type Virtqueue } from 'sealbus/virtio';

/** A virtio entropy source (virtio 1.2 section 5.4): fills the buffers that it is given. */
export class Entropy extends VirtioFunction {
  static override readonly virtio = {
    type: 4,
    queues: [{ name: 'requests', size: 64 }],
  };
  readonly #source: (length: number) => Uint8Array;

  constructor(source: (length: number) => Uint8Array = randomBytes) {
    super();
    this.#source = source;
  }

  override onQueue(requests: Virtqueue) {
    for (let chain = requests.take(); chain !== undefined; chain = requests.take()) {
      chain.write(this.#source(Math.min(chain.writable, 4096))); // encrypted by the IOMMU
      requests.put(chain);
    }
  }
}
