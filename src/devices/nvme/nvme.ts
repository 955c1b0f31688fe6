import { type FunctionInterrupts, PciFunction, type ResetCause } from '../../pci/index.ts';
import { StorageBufferPool } from '../../storage/storage-buffers.ts';
import type { AdminCommands } from './admin/admin-commands.ts';
import { EventType } from './admin/async-events.ts';
import { LogPage } from './admin/capabilities.ts';
import { AdminPort } from './admin-port.ts';
import { TRANSFER_BYTES_MAX } from './data-pointer/data-pointer.ts';
import { IoPath } from './io/io-path.ts';
import { iovaFrom } from './iova.ts';
import { misconfiguration } from './misconfiguration.ts';
import type { Namespace } from './namespace.ts';
import { NamespaceGate } from './namespace-gate.ts';
import { checkSerial, highestNsid, type NvmeOptions, newNamespaces } from './nvme-options.ts';
import { PinInterrupts } from './pin-interrupts.ts';
import { Pulse } from './pulse.ts';
import { CompletionQueue, type CompletionQueueHost } from './queue/completion-queue.ts';
import { QueueSet } from './queue/queue-set.ts';
import { ShadowDoorbells } from './queue/shadow-doorbells.ts';
import { SubmissionQueue } from './queue/submission-queue.ts';
import { QueueWorker } from './queue-worker.ts';
import { type ControllerRegisters, controllerRegisters, SHUTDOWN } from './registers.ts';
import { flushAll } from './shutdown.ts';
import { subsystemNqn } from './subsystem-nqn.ts';
import { ONLY_CONTROLLER } from './subsystem-place.ts';

/** I/O queues of each kind; one vector each, and the admin queue's. */
const IO_QUEUES_MAX = 64;
const VECTORS = IO_QUEUES_MAX + 1;
const RETRY_NS = 1_000_000;
/**
 * Measured with 32 reads of 4 KiB under way in a guest under TCG: where a submission costs a message
 * the guest gains by being interrupted less, else by never standing still.
 */
const BATCH_SHARE = { message: 0.75, shadow: 0.5 } as const;

export type { NamespaceOptions, NvmeOptions } from './nvme-options.ts';

/**
 * An NVMe 1.4 controller with the NVM command set: registers and their state (§3.1, §7.3, §7.6). What
 * queues do is the QueueWorker's, what I/O commands do the IoPath's, what admin commands do the
 * AdminPort's and what it hands on to.
 */
export class Nvme extends PciFunction {
  static override readonly id = {
    vendor: 0x1b36,
    device: 0x5eb2,
    class: 0x010802,
    revision: 1,
    subsystemVendor: 0x1af4,
    subsystem: 0x1100,
  };
  static override readonly interrupts: FunctionInterrupts = { intx: true, msix: VECTORS };

  readonly bar0: ControllerRegisters;
  readonly admin: AdminCommands;
  readonly #options: NvmeOptions;
  readonly #gates: readonly NamespaceGate[];
  readonly #queues = new QueueSet();
  readonly #completions: CompletionQueueHost;
  readonly #pins: PinInterrupts;
  readonly #io: IoPath;
  readonly #worker: QueueWorker;
  readonly #adminPort: AdminPort;
  readonly #pulse: Pulse;
  readonly #startedMs = performance.now();
  /** Queues are there and worked on. CSTS.RDY may lag: old I/O comes to its end first. */
  #enabled = false;
  #shutDown = false;
  #fatal = false;
  /** An alarm is set, which a reset cancels. */
  #wakesLater = false;

  /** @throws RangeError where there are not 1 to 256 namespaces, or the serial number is too long */
  constructor(options: NvmeOptions) {
    super(options);
    this.#options = options;
    const { serial = 'SEALBUS0001', doorbells = 'shadow', coalescing = true } = options;
    const { namespaces, pollMicroseconds = 250 } = options;
    const { place = ONLY_CONTROLLER } = options;
    checkSerial(serial);
    this.bar0 = controllerRegisters({
      mask: (bits) => this.#setMask(this.#pins.mask | bits),
      unmask: (bits) => this.#setMask(this.#pins.mask & ~bits),
      configured: (enabled, shutdown) => this.#configured(enabled, shutdown),
      // Of several controllers each is in a VM of its own, which none of the others is to be reset by.
      subsystemReset: place.role === 'only' ? () => this.#subsystemReset() : undefined,
      doorbell: (index, value) => this.#doorbell(index, value),
    });
    this.#gates = newNamespaces(namespaces, place).map((namespace) => new NamespaceGate(namespace));
    const nsidMax = highestNsid(this.namespaces, place);
    this.#pulse = new Pulse(
      () => this.#turn(),
      (error) => this.start(Promise.reject(error)),
    );
    const it = this;
    const wake = () => this.#pulse.request();
    this.#completions = {
      wake,
      entryStands: (completions, sqid) => this.#queues.stands(completions, sqid),
      get completionPoint() {
        return it.completionPoint;
      },
      get nowNs() {
        return it.clock.nowNs;
      },
    };
    this.#pins = new PinInterrupts(
      {
        get usesMsix() {
          return it.msix.enabled;
        },
        raise: (vector) => this.interrupt.raise(vector),
        lower: () => this.interrupt.lower(),
      },
      this.#queues,
    );
    this.#adminPort = new AdminPort({
      nsidMax,
      serialNumber: serial,
      place,
      subsystemNqn: subsystemNqn(serial),
      ioQueuesMax: IO_QUEUES_MAX,
      msixVectors: VECTORS,
      transferBytesMax: TRANSFER_BYTES_MAX,
      shadowDoorbells: doorbells === 'shadow',
      batchShare: BATCH_SHARE[doorbells],
      completions: this.#completions,
      queues: this.#queues,
      gates: this.#gates,
      wake,
      get io() {
        return it.#io;
      },
      get dma() {
        return it.dma;
      },
      get nowNs() {
        return it.clock.nowNs;
      },
      get uptimeMs() {
        return performance.now() - it.#startedMs;
      },
      get pageBytes() {
        return it.#pageBytes;
      },
      get submissionEntryShift() {
        return it.bar0.configuration.submissionEntry;
      },
      get completionEntryShift() {
        return it.bar0.configuration.completionEntry;
      },
      useShadow: (shadow, events) => this.#useShadow(shadow, events),
      postHeld: (queue) => this.#worker.postHeld(queue),
      queueMade: (queue) => this.#enterShadow(queue),
      failed: (error) => this.start(Promise.reject(error)),
    });
    const { admin } = this.#adminPort;
    this.admin = admin;
    this.#io = new IoPath({
      gates: this.#gates,
      nsidMax,
      transferBytesMax: TRANSFER_BYTES_MAX,
      buffers: options.buffers ?? new StorageBufferPool(),
      health: admin.health,
      errorLog: admin.errorLog,
      get writeCache() {
        return admin.features.writeCache;
      },
      get nowNs() {
        return it.clock.nowNs;
      },
      wake,
      wakeLater: () => this.#wakeLater(),
      drained: () => this.#drained(),
    });
    this.#worker = new QueueWorker(
      {
        pollNs: pollMicroseconds * 1000,
        coalesces: (vector) => coalescing && !admin.features.coalescingDisabled(vector),
        admin: (entry) => this.#adminPort.execute(entry),
        interrupt: (vector) => this.#pins.interrupt(vector),
        pause: (ns) => this.clock.pause(ns),
        invalidDoorbell: (info) =>
          admin.events.raise(EventType.error, info, LogPage.errorInformation),
        fatal: (why) => this.#fail(why),
        get dma() {
          return it.dma;
        },
        get nowNs() {
          return it.clock.nowNs;
        },
        get pageBytes() {
          return it.#pageBytes;
        },
        get burst() {
          return admin.features.arbitrationBurst;
        },
        get levelUp() {
          return it.interrupt.asserted;
        },
      },
      this.#queues,
      this.#io,
    );
  }

  get namespaces(): readonly Namespace[] {
    return this.#gates.map(({ namespace }) => namespace);
  }

  /**
   * A controller for the next VM, over the same namespaces; these keep their block size, which says how their data
   * lies, and are not write-protected. What one controller holds of its VM is in it alone: registers and queues,
   * shadow doorbells, features, event requests and logs, the commands under way and the buffers of their data,
   * unless the buffers were given to it ({@link NvmeOptions.buffers}): then they are for others as well.
   */
  async handOver(): Promise<Nvme> {
    await this.atRest();
    const namespaces = this.namespaces.map(({ nsid, storage, blockBytes }) => ({
      ...{ nsid, storage, blockBytes },
    }));
    return new Nvme({ ...this.#options, namespaces });
  }

  /** Resets it, and waits until no storage works for it any more. */
  protected async atRest(): Promise<void> {
    this.reset('device');
    await Promise.all(this.#gates.map((gate) => gate.idle()));
  }

  protected override onReset(cause: ResetCause): void {
    if (cause === 'connection-lost' && this.#enabled && !this.#shutDown) {
      this.admin.health.unsafeShutdowns++;
    }
    this.#forget();
  }

  get #pageBytes(): number {
    return 4096 << this.bar0.configuration.pageShift;
  }

  #configured(wasEnabled: boolean, oldShutdown: number): void {
    const { enable, shutdown } = this.bar0.configuration;
    if (!enable && wasEnabled) {
      this.#controllerReset();
    } else if (enable && !wasEnabled) {
      this.#enable();
    }
    if (shutdown !== 0 && oldShutdown === 0) this.#shutdown();
  }

  /** CC.EN from 0 to 1 (§7.6.1). */
  #enable(): void {
    const { adminQueues, adminSubmissionBase, adminCompletionBase } = this.bar0;
    const why = misconfiguration(this.bar0);
    if (why !== undefined) {
      this.#fail(`the host has enabled the controller with ${why}`);
      return;
    }
    const completions = new CompletionQueue(0, iovaFrom(adminCompletionBase), {
      size: adminQueues.completion + 1,
      vector: 0,
      interrupts: true,
      share: 1,
      host: this.#completions,
    });
    const base = iovaFrom(adminSubmissionBase);
    this.#queues.addCompletion(completions);
    this.#queues.addSubmission(
      new SubmissionQueue(0, adminQueues.submission + 1, base, completions),
    );
    this.#enabled = true;
    this.bar0.status.ready = !this.#io.draining;
  }

  /** CC.EN from 1 to 0 (§7.3.2): CSTS.RDY says when the last request of before is over. */
  #controllerReset(): void {
    this.endWork();
    this.#forget();
    this.bar0.interruptMaskSet = 0;
    this.bar0.interruptMaskClear = 0;
    const { status } = this.bar0;
    status.fatal = false;
    status.shutdown = SHUTDOWN.none;
    status.ready = status.ready && this.#io.draining;
  }

  #subsystemReset(): void {
    this.reset('device');
    this.bar0.status.subsystemResetOccurred = true;
  }

  /** Nothing of the life until now reaches the host any more. */
  #forget(): void {
    this.#enabled = false;
    this.#shutDown = false;
    this.#fatal = false;
    this.#wakesLater = false;
    this.#pins.forget();
    this.#io.forget();
    this.#worker.forget();
    this.#adminPort.forget();
    this.#queues.clear();
  }

  /** The storages have ended their requests of before a reset. */
  #drained(): void {
    this.bar0.status.ready = this.#enabled;
    this.#pulse.request();
  }

  /**
   * CC.SHN (§7.6.2), normal or abrupt: what was written is made durable. Commands that come after it
   * are still worked on; the host sends none.
   */
  #shutdown(): void {
    const { status } = this.bar0;
    status.shutdown = SHUTDOWN.occurring;
    const ended = this.untilReset;
    flushAll(
      this.#gates.map(({ namespace }) => namespace.storage),
      (errors) => {
        for (const error of errors) this.report(error);
        if (ended.aborted) return;
        status.shutdown = SHUTDOWN.complete;
        this.#shutDown = true;
      },
    );
  }

  #doorbell(index: number, value: number): void {
    if (!this.#enabled) return;
    this.#worker.doorbell(index, value);
    this.#pulse.request();
  }

  #turn(): boolean {
    if (!this.#enabled || !this.bar0.status.ready || this.failed !== undefined) return false;
    const again = this.#worker.turn();
    if (this.interrupt.asserted) this.#pins.settle();
    return again;
  }

  #wakeLater(): void {
    if (this.#wakesLater) return;
    this.#wakesLater = true;
    this.clock.after(RETRY_NS, () => {
      this.#wakesLater = false;
      this.#pulse.request();
    });
  }

  #useShadow(shadow: bigint, events: bigint): boolean {
    const doorbells = new ShadowDoorbells(iovaFrom(shadow), iovaFrom(events), IO_QUEUES_MAX);
    this.#worker.shadow = doorbells;
    for (const { id } of this.#queues.submissions) this.#enterShadow(id);
    for (const { id } of this.#queues.completions) this.#enterShadow(id);
    if (!doorbells.failed) return true;
    this.#worker.shadow = undefined;
    return false;
  }

  #enterShadow(queue: number): void {
    if (queue === 0) return;
    const tail = this.#queues.submission[queue]?.tail ?? 0;
    const head = this.#queues.completion[queue]?.head ?? 0;
    this.#worker.shadow?.enter(queue, tail, head, this.dma);
  }

  /** CSTS.CFS: what no completion can tell. Queues that still answer are worked on until the reset. */
  #fail(why: string): void {
    this.bar0.status.fatal = true;
    if (!this.#fatal) this.report(new Error(`NVMe controller fatal status: ${why}`));
    this.#fatal = true;
  }

  /** INTMS and INTMC read alike. */
  #setMask(mask: number): void {
    this.#pins.mask = mask;
    this.bar0.interruptMaskSet = this.#pins.mask;
    this.bar0.interruptMaskClear = this.#pins.mask;
  }
}
