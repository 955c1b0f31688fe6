import type { ResetCause } from '../pci/endpoint.ts';
import { type FunctionOptions, PciFunction } from '../pci/function.ts';
import type { Virtqueue } from './virtqueue.ts';

/** What a virtio device's class says of itself: `static readonly virtio = { … }`. */
export interface VirtioClass {
  /** Device type, virtio 1.2 section 5: 4 is an entropy source, 23 an IOMMU. 1 to 63. */
  readonly type: number;
  /** PCI class code, 24 bits; drivers go by the type. Default 0xff0000 (other). */
  readonly class?: number;
  /** Feature bits of the device type that it offers; the transport adds its own. Default none. */
  readonly features?: readonly number[];
  /** In the order of their numbers. */
  readonly queues: readonly QueueClass[];
}

export interface QueueClass {
  readonly name: string;
  /** Entries at most: a power of two up to 32768. The driver may set it up smaller. */
  readonly size: number;
  /**
   * Device-readable bytes from the start of each chain that are fetched for several chains at once,
   * before take() hands out the first: where memory is sealed that is far cheaper than one read a
   * chain. Default 0; give the length of a usual request where requests are small.
   */
  readonly prefetch?: number;
}

/** A reset of the whole function, or the driver's: it wrote 0 to the device status. */
export type VirtioResetCause = ResetCause | 'driver';

/**
 * A virtio device over PCI (virtio 1.2 section 4.1, modern only). An author extends this, says in
 * `static virtio` which device it is, declares its configuration fields as `config`, and serves
 * queues in {@link onQueue}.
 */
export abstract class VirtioFunction extends PciFunction {
  static readonly virtio: VirtioClass | undefined = undefined;

  constructor(options: FunctionOptions = {}) {
    super(options);
  }

  /**
   * The driver says that the queue has available chains: take them, serve them, put them back. Also
   * called once for each queue when the driver is ready. Calls for one queue never overlap: while a
   * promise that it gave back is pending, the next call waits. What was put back is flushed when it
   * is over. A chain may be kept and put back later, then with a flush() of one's own.
   *
   * A DmaAbort that comes out of it makes the device ask for a reset, for the driver named memory
   * that it may not use; a ResetAbort is dropped; anything else is a bug of the device.
   */
  protected abstract onQueue(queue: Virtqueue): void | Promise<void>;

  /**
   * Whether the features that the driver chose fit together: false refuses FEATURES_OK. They are a
   * subset of those offered, VERSION_1 among them.
   */
  protected acceptFeatures(_has: (feature: number) => boolean): boolean {
    return true;
  }

  /** The driver has set DRIVER_OK: features are settled, queues are live. */
  protected onDriverOk(): void {}

  /**
   * After a reset: no queue is live, chains taken before are void, no feature is negotiated. A
   * driver's reset leaves `config` as it is, any other puts it back to its reset values.
   */
  protected onDeviceReset(_cause: VirtioResetCause): void {}

  /** The driver reset one queue (VIRTIO_F_RING_RESET): chains taken from it are void. */
  protected onQueueReset(_queue: Virtqueue): void {}

  /** @throws RangeError where the class declares no queue of that name */
  protected queue(_name: string): Virtqueue {
    throw new Error('in the making');
  }

  /** Whether driver and device have agreed on the feature; false before FEATURES_OK. */
  protected negotiated(_feature: number): boolean {
    throw new Error('in the making');
  }

  /**
   * Call after changing fields of `config`, in the same turn: the generation moves on, so that a
   * driver never puts together old and new halves, and it is told by an interrupt.
   */
  protected configChanged(): void {
    throw new Error('in the making');
  }

  /** Sets DEVICE_NEEDS_RESET and tells the driver: nothing is served until it has reset the device. */
  protected needsReset(_why: string): void {
    throw new Error('in the making');
  }
}
