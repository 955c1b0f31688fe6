import { DmaAbort } from '../pci/dma-port.ts';
import type { PciCapability, ResetCause } from '../pci/endpoint.ts';
import { ResetAbort } from '../pci/epoch.ts';
import { type FunctionOptions, PciFunction } from '../pci/function.ts';
import type { FunctionId, FunctionInterrupts } from '../pci/function-shape.ts';
import { type Bar, PLAN } from '../pci/register/bar.ts';
import { accessCapability } from './access-capability.ts';
import { Status } from './device-status.ts';
import { Feature, hasFeature, offeredFeatures } from './features.ts';
import { QueueService } from './queue-service.ts';
import { iovaOfRegister, NO_VECTOR } from './queue-setup.ts';
import { RingError } from './ring-error.ts';
import { SplitRing } from './split-ring.ts';
import { SplitVirtqueue } from './split-virtqueue.ts';
import { Structure, structureCapability } from './structure-capability.ts';
import {
  COMMON,
  ISR,
  ISR_CONFIG,
  ISR_QUEUE,
  NOTIFY_MULTIPLIER,
  NOTIFY_OFFSET,
  Transport,
} from './transport.ts';
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
   * chain. Default 0; give the length of a usual request where requests are small. At most 4096.
   */
  readonly prefetch?: number;
}

/** A reset of the whole function, or the driver's: it wrote 0 to the device status. */
export type VirtioResetCause = ResetCause | 'driver';

const VENDOR = 0x1af4;
const MODERN_DEVICE = 0x1040;
const TYPE_MAX = 63;
/** Non-transitional devices have 0x40 or more here, section 4.1.2.1. */
const SUBSYSTEM = 0x1100;
const CLASS_OTHER = 0xff0000;
const CONFIG_BAR = 1;
const PREFETCH_MAX = 4096;

/**
 * A virtio device over PCI (virtio 1.2 section 4.1, modern only). An author extends this, says in
 * `static virtio` which device it is, declares its configuration fields as `config`, and serves
 * queues in {@link onQueue}.
 *
 * What a driver does wrong in its rings, and memory that it names and may not use, makes the device
 * ask for a reset (DEVICE_NEEDS_RESET) with a configuration interrupt. Its queues then stand still
 * until the driver has reset it; the function, the process and all others go on.
 */
export abstract class VirtioFunction extends PciFunction {
  static readonly virtio: VirtioClass | undefined = undefined;
  static override readonly barNames = { config: CONFIG_BAR };

  static override get id(): FunctionId {
    // biome-ignore lint/complexity/noThisInStatic: the class that is asked, not the one that answers
    const { type, class: classCode = CLASS_OTHER } = virtioOf(this);
    if (!Number.isInteger(type) || type < 1 || type > TYPE_MAX) {
      throw new RangeError(`expected a virtio device type from 1 to ${TYPE_MAX}, got ${type}`);
    }
    const device = MODERN_DEVICE + type;
    return { vendor: VENDOR, device, class: classCode, revision: 1, subsystem: SUBSYSTEM };
  }

  /** A vector for each queue and one for the configuration, or INTx. */
  static override get interrupts(): FunctionInterrupts {
    // biome-ignore lint/complexity/noThisInStatic: as above
    return { intx: true, msix: virtioOf(this).queues.length + 1 };
  }

  readonly #transport: Transport;
  readonly #queues: readonly SplitVirtqueue[];
  readonly #services: (QueueService | undefined)[] = [];
  /** The configuration has changed since the driver read any of it. */
  #configMoved = false;
  /** Common configuration, notifications and ISR status. */
  readonly bar0: Transport['bar'];

  constructor(options: FunctionOptions = {}) {
    super(options);
    const { features = [], queues } = virtioOf(this.constructor as typeof VirtioFunction);
    this.#transport = new Transport(
      { offered: offeredFeatures(features), queues, vectors: this.msix.count },
      {
        driverReset: () => this.#reset('driver'),
        accepts: (chosen) => this.acceptFeatures((feature) => hasFeature(chosen, feature)),
        driverOk: () => this.#begin(),
        enabled: (index) => this.#enable(index),
        queueReset: (index) => this.#resetQueue(index),
        notified: (index) => this.#services[index]?.wake(),
        isrRead: () => this.interrupt.lower(),
      },
    );
    this.bar0 = this.#transport.bar;
    this.#queues = queues.map((declared, index) => {
      const { name, prefetch = 0 } = declared;
      if (!Number.isInteger(prefetch) || prefetch < 0 || prefetch > PREFETCH_MAX) {
        throw new RangeError(
          `expected queue '${name}' to prefetch 0 to ${PREFETCH_MAX} bytes, got ${prefetch}`,
        );
      }
      const point = () => this.completionPoint;
      return new SplitVirtqueue(declared, index, {
        broken: (error) => this.#broken(error),
        interrupt: (queue) => this.#interruptQueue(queue.index),
        get completionPoint() {
          return point();
        },
      });
    });
  }

  /**
   * The driver says that the queue has available chains: take them, serve them, put them back. Also
   * called once for each queue when the driver is ready. Calls for one queue never overlap: while a
   * promise that it gave back is pending, the next call waits. What was put back is flushed when it
   * is over. A chain may be kept and put back later, then with a flush() of one's own.
   *
   * Where it has taken some and left others it is called again. One that takes none is not: with
   * EVENT_IDX the driver may say nothing more until then, so it has to take() them later by itself.
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
  protected queue(name: string): Virtqueue {
    const found = this.#queues.find((queue) => queue.name === name);
    if (found !== undefined) return found;
    const names = this.#queues.map((queue) => queue.name).join(', ');
    throw new RangeError(`expected one of the queues ${names}, got '${name}'`);
  }

  /** Whether driver and device have agreed on the feature; false before FEATURES_OK. */
  protected negotiated(feature: number): boolean {
    return hasFeature(this.#transport.negotiated, feature);
  }

  /**
   * Call after changing fields of `config`, in the same turn: the generation moves on, so that a
   * driver never puts together old and new halves, and it is told by an interrupt.
   */
  protected configChanged(): void {
    this.#configMoved = true;
    this.#interruptConfig();
  }

  /** Sets DEVICE_NEEDS_RESET and tells the driver: nothing is served until it has reset the device. */
  protected needsReset(why: string): void {
    this.#broken(new RingError(why));
  }

  /** Section 4.1.4.3.1: an 8-bit count of the changes themselves could wrap between two reads. */
  override readBar(bar: number, offset: number, into: Uint8Array): void {
    if (bar === CONFIG_BAR && this.#configMoved) {
      this.#configMoved = false;
      this.#transport.nextGeneration();
    }
    super.readBar(bar, offset, into);
  }

  protected override onReset(cause: ResetCause): void {
    this.#reset(cause);
  }

  protected override moreCapabilities(): readonly PciCapability[] {
    const notifyBytes = NOTIFY_MULTIPLIER * this.#queues.length;
    const list = [
      structureCapability(Structure.common, { bar: 0, ...COMMON }),
      structureCapability(Structure.isr, { bar: 0, ...ISR }),
      structureCapability(
        Structure.notify,
        { bar: 0, offset: NOTIFY_OFFSET, length: notifyBytes },
        NOTIFY_MULTIPLIER,
      ),
    ];
    const config = (this as { readonly config?: Bar }).config;
    if (config !== undefined) {
      const end = config[PLAN].extents.at(-1)?.end ?? 0;
      const length = Math.ceil(end / 4) * 4;
      list.push(structureCapability(Structure.device, { bar: CONFIG_BAR, offset: 0, length }));
    }
    list.push(accessCapability(this));
    return list;
  }

  #begin(): void {
    for (const index of this.#queues.keys()) {
      if (this.#transport.queues[index]?.enabled === true) this.#open(index);
    }
    this.onDriverOk();
    // A driver may have made buffers available before, and its notification was nothing to us then.
    for (const service of this.#services) service?.wake();
  }

  #enable(index: number): void {
    const misplaced = this.#transport.queues[index]?.misplaced;
    if (misplaced !== undefined) this.needsReset(`queue ${index}: ${misplaced}`);
    else if (this.#transport.running) this.#open(index);
  }

  /** The queue is enabled and the device runs: from here its rings count. */
  #open(index: number): void {
    const setup = this.#transport.queues[index];
    const queue = this.#queues[index];
    if (setup === undefined || queue === undefined || !this.#transport.running) return;
    const features = this.#transport.negotiated;
    queue.enable(
      new SplitRing(this.dma, {
        size: setup.size,
        descriptors: iovaOfRegister(setup.descriptors),
        driver: iovaOfRegister(setup.driver),
        device: iovaOfRegister(setup.device),
        indirect: hasFeature(features, Feature.indirectDescriptors),
        eventIndex: hasFeature(features, Feature.eventIndex),
      }),
    );
    this.#services[index] = new QueueService(queue, {
      serve: (served) => this.onQueue(served),
      broken: (error) => this.#broken(error),
      watch: (work) => this.start(work),
      later: (callback) => this.start(afterOthers(callback)),
    });
  }

  #close(index: number, cause: VirtioResetCause): void {
    this.#queues[index]?.disable(new ResetAbort(cause));
    this.#services[index]?.end();
    this.#services[index] = undefined;
  }

  #resetQueue(index: number): void {
    this.#close(index, 'driver');
    const queue = this.#queues[index];
    if (queue !== undefined) this.onQueueReset(queue);
  }

  #reset(cause: VirtioResetCause): void {
    for (const index of this.#queues.keys()) this.#close(index, cause);
    if (cause === 'driver') {
      this.endWork();
      this.interrupt.lower();
    }
    this.#transport.reset();
    this.#configMoved = true;
    this.onDeviceReset(cause);
  }

  /** What a driver did is answered with DEVICE_NEEDS_RESET; what the device's code did is thrown. */
  #broken(error: unknown): void {
    if (error instanceof ResetAbort) return;
    if (!(error instanceof DmaAbort || error instanceof RingError)) throw error;
    if (!this.#transport.needsReset()) return;
    for (const queue of this.#queues) queue.halt();
    this.report(error);
    this.#interruptConfig();
  }

  /** None before DRIVER_OK, section 2.1.2. */
  #interruptConfig(): void {
    if ((this.#transport.status & Status.driverOk) === 0) return;
    this.bar0.isr |= ISR_CONFIG;
    this.#interruptBy(this.#transport.configVector);
  }

  #interruptQueue(index: number): void {
    if (!this.msix.enabled) this.bar0.isr |= ISR_QUEUE;
    this.#interruptBy(this.#transport.queues[index]?.vector ?? NO_VECTOR);
  }

  #interruptBy(vector: number): void {
    if (!this.msix.enabled) this.interrupt.raise();
    else if (vector !== NO_VECTOR) this.msix.raise(vector);
  }
}

function virtioOf(type: { readonly name: string; readonly virtio: VirtioClass | undefined }) {
  if (type.virtio !== undefined) return type.virtio;
  throw new TypeError(
    `${type.name}: expected static readonly virtio = { type, queues } in the class`,
  );
}

async function afterOthers(callback: () => void): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  callback();
}
