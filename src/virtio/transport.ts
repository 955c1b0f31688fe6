/**
 * The structures of virtio over PCI in BAR 0, and the state behind them: common configuration
 * (virtio 1.2 section 4.1.4.3), notifications (4.1.4.4) and ISR status (4.1.4.5).
 */
import { memoryBar } from '../pci/register/bar.ts';
import { reg8, reg16, reg32, reg64, regArray, ro8, ro16, ro32 } from '../pci/register/register.ts';
import { STATUS_OF_DRIVER, Status } from './device-status.ts';
import { Feature, type FeatureSet, hasFeature } from './features.ts';
import { NO_VECTOR, QueueSetup } from './queue-setup.ts';

/** Where the structures lie in BAR 0; each has a page of its own. */
export const COMMON = { offset: 0x0000, length: 0x3c } as const;
export const ISR = { offset: 0x1000, length: 1 } as const;
export const NOTIFY_OFFSET = 0x2000;
/** Bytes from one queue's notification address to the next. */
export const NOTIFY_MULTIPLIER = 4;
const BAR_BYTES = 0x4000;
/** Their notification addresses fill a page. */
export const QUEUES_MAX = 1024;

export const ISR_QUEUE = 1;
export const ISR_CONFIG = 2;

/** What the transport tells the function that it is part of. */
export interface TransportHost {
  /** The driver wrote 0 to the device status. */
  driverReset(): void;
  /** Whether FEATURES_OK may be set. */
  accepts(features: FeatureSet): boolean;
  driverOk(): void;
  /** The driver enabled a queue. */
  enabled(index: number): void;
  /** The driver reset a queue. */
  queueReset(index: number): void;
  /** Buffers are available, says the driver. */
  notified(index: number): void;
  /** ISR status was read: INTx is to be lowered. */
  isrRead(): void;
}

export interface TransportOptions {
  readonly offered: FeatureSet;
  readonly queues: readonly { readonly name: string; readonly size: number }[];
  /** MSI-X vectors of the function. */
  readonly vectors: number;
}

export class Transport {
  readonly queues: readonly QueueSetup[];
  readonly bar: ReturnType<Transport['layOut']>;
  readonly #offered: FeatureSet;
  readonly #vectors: number;
  readonly #host: TransportHost;
  /** What the driver has written so far. */
  #chosen: FeatureSet = 0n;
  #status = 0;
  #configVector = NO_VECTOR;
  #generation = 0;

  constructor(options: TransportOptions, host: TransportHost) {
    if (options.queues.length < 1 || options.queues.length > QUEUES_MAX) {
      throw new RangeError(`expected 1 to ${QUEUES_MAX} queues, got ${options.queues.length}`);
    }
    this.#offered = options.offered;
    this.#vectors = options.vectors;
    this.#host = host;
    this.queues = options.queues.map(({ name, size }) => new QueueSetup(name, size));
    this.bar = this.layOut(options.queues.length);
    this.#showQueue();
  }

  get status(): number {
    return this.#status;
  }

  /** The driver is ready, and nothing has broken. */
  get running(): boolean {
    return (this.#status & (Status.driverOk | Status.needsReset)) === Status.driverOk;
  }

  get configVector(): number {
    return this.#configVector;
  }

  /** The features agreed on; none before FEATURES_OK. */
  get negotiated(): FeatureSet {
    return (this.#status & Status.featuresOk) === 0 ? 0n : this.#chosen;
  }

  /** Sets DEVICE_NEEDS_RESET; false where it is set already. */
  needsReset(): boolean {
    if ((this.#status & Status.needsReset) !== 0) return false;
    this.#setStatus(this.#status | Status.needsReset);
    return true;
  }

  /** Moves the generation of the device configuration on. */
  nextGeneration(): void {
    this.#generation = (this.#generation + 1) & 0xff;
    this.bar.configGeneration = this.#generation;
  }

  /** All of it as after power-on, but the generation, which goes on. */
  reset(): void {
    this.#chosen = 0n;
    this.#configVector = NO_VECTOR;
    for (const queue of this.queues) queue.reset();
    const { bar } = this;
    bar.deviceFeatureSelect = 0;
    bar.driverFeatureSelect = 0;
    bar.configMsixVector = NO_VECTOR;
    bar.queueSelect = 0;
    bar.configGeneration = this.#generation;
    bar.isr = 0;
    this.#setStatus(0);
    this.#showQueue();
  }

  private layOut(queueCount: number) {
    const locked = (): boolean => this.#selected?.enabled !== false;
    const queue = (set: (queue: QueueSetup) => void) => () => {
      const selected = this.#selected;
      if (selected !== undefined) set(selected);
      this.#showQueue();
    };
    return memoryBar(BAR_BYTES, {
      deviceFeatureSelect: reg32(0x00),
      deviceFeature: ro32(0x04, { refresh: () => this.#showDeviceFeatures() }),
      driverFeatureSelect: reg32(0x08),
      driverFeature: reg32(0x0c, {
        refresh: () => this.#showDriverFeatures(),
        onWrite: (word) => this.#chooseFeatures(word),
      }),
      configMsixVector: reg16(0x10, { reset: NO_VECTOR, onWrite: (v) => this.#setConfigVector(v) }),
      numQueues: ro16(0x12, { reset: queueCount }),
      deviceStatus: reg8(0x14, { onWrite: (now) => this.#writeStatus(now) }),
      configGeneration: ro8(0x15),
      queueSelect: reg16(0x16, { onWrite: () => this.#showQueue() }),
      queueSize: reg16(0x18, {
        lockedWhile: locked,
        onWrite: queue((selected) => selected.resize(this.bar.queueSize)),
      }),
      queueMsixVector: reg16(0x1a, {
        onWrite: queue((selected) => {
          selected.vector = this.#vectorOf(this.bar.queueMsixVector);
        }),
      }),
      queueEnable: reg16(0x1c, { onWrite: (now) => this.#enableQueue(now) }),
      queueNotifyOff: ro16(0x1e),
      queueDesc: reg64(0x20, {
        lockedWhile: locked,
        onWrite: queue((selected) => {
          selected.descriptors = this.bar.queueDesc;
        }),
      }),
      queueDriver: reg64(0x28, {
        lockedWhile: locked,
        onWrite: queue((selected) => {
          selected.driver = this.bar.queueDriver;
        }),
      }),
      queueDevice: reg64(0x30, {
        lockedWhile: locked,
        onWrite: queue((selected) => {
          selected.device = this.bar.queueDevice;
        }),
      }),
      queueNotifyData: ro16(0x38),
      queueReset: reg16(0x3a, { onWrite: (now) => this.#resetQueue(now) }),
      isr: ro8(ISR.offset, { onRead: () => this.#isrRead() }),
      notify: regArray(
        queueCount,
        reg16(NOTIFY_OFFSET, { onWrite: (_now, _before, index) => this.#host.notified(index) }),
        { stride: NOTIFY_MULTIPLIER },
      ),
    });
  }

  get #selected(): QueueSetup | undefined {
    return this.queues[this.bar.queueSelect];
  }

  /** What the registers of one queue show follows queue_select; a queue that is not there has size 0. */
  #showQueue(): void {
    const { bar } = this;
    const selected = this.#selected;
    bar.queueSize = selected?.size ?? 0;
    bar.queueMsixVector = selected?.vector ?? NO_VECTOR;
    bar.queueEnable = selected?.enabled === true ? 1 : 0;
    bar.queueNotifyOff = selected === undefined ? 0 : bar.queueSelect;
    bar.queueDesc = selected?.descriptors ?? 0n;
    bar.queueDriver = selected?.driver ?? 0n;
    bar.queueDevice = selected?.device ?? 0n;
    bar.queueReset = 0;
  }

  #showDeviceFeatures(): void {
    this.bar.deviceFeature = wordOf(this.#offered, this.bar.deviceFeatureSelect);
  }

  #showDriverFeatures(): void {
    this.bar.driverFeature = wordOf(this.#chosen, this.bar.driverFeatureSelect);
  }

  /** They are settled once FEATURES_OK is set. Bits beyond the last word exist nowhere. */
  #chooseFeatures(word: number): void {
    const select = this.bar.driverFeatureSelect;
    if ((this.#status & Status.featuresOk) !== 0 || select > 3) return;
    const shift = BigInt(32 * select);
    this.#chosen = (this.#chosen & ~(0xffff_ffffn << shift)) | (BigInt(word) << shift);
  }

  #setConfigVector(vector: number): void {
    this.#configVector = this.#vectorOf(vector);
    this.bar.configMsixVector = this.#configVector;
  }

  /** A vector that cannot be had reads back as NO_VECTOR, section 4.1.5.1.2.1. */
  #vectorOf(vector: number): number {
    return vector < this.#vectors ? vector : NO_VECTOR;
  }

  /** Section 3.1.1. Bits once set stay until the driver writes 0. */
  #writeStatus(written: number): void {
    if (written === 0) {
      this.#host.driverReset();
      return;
    }
    const before = this.#status;
    let status = before | (written & STATUS_OF_DRIVER);
    const featuresOk = (before & Status.featuresOk) !== 0;
    if (!featuresOk && (status & Status.featuresOk) !== 0 && !this.#featuresFit()) {
      status &= ~Status.featuresOk;
    }
    // Without features agreed on there is nothing to run by.
    if ((status & Status.featuresOk) === 0) status &= ~Status.driverOk;
    this.#setStatus(status);
    if ((status & ~before & Status.driverOk) !== 0) this.#host.driverOk();
  }

  #featuresFit(): boolean {
    const chosen = this.#chosen;
    if ((chosen & ~this.#offered) !== 0n) return false;
    return hasFeature(chosen, Feature.version1) && this.#host.accepts(chosen);
  }

  #setStatus(status: number): void {
    this.#status = status;
    this.bar.deviceStatus = status;
  }

  /** Disabling by writing 0 is not for drivers to do (section 4.1.4.3.2): nothing happens. */
  #enableQueue(written: number): void {
    const selected = this.#selected;
    const enable = selected !== undefined && written === 1 && !selected.enabled;
    if (enable) selected.enabled = true;
    this.#showQueue();
    if (enable) this.#host.enabled(this.bar.queueSelect);
  }

  /** Section 2.6.1. It is over at once: the driver reads 0 next. */
  #resetQueue(written: number): void {
    const index = this.bar.queueSelect;
    const selected = this.#selected;
    if (written === 1 && selected !== undefined && hasFeature(this.negotiated, Feature.ringReset)) {
      selected.reset();
      this.#host.queueReset(index);
    }
    this.#showQueue();
  }

  #isrRead(): void {
    this.bar.isr = 0;
    this.#host.isrRead();
  }
}

function wordOf(features: FeatureSet, select: number): number {
  return select > 3 ? 0 : Number((features >> BigInt(32 * select)) & 0xffff_ffffn);
}
