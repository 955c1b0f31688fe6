import type { FaultRecord } from '../../iommu/fault-log.ts';
import type { Iommu } from '../../iommu/iommu.ts';
import { DmaAbort, type FunctionOptions, reg8, ro32, ro64 } from '../../pci/index.ts';
import type { RequesterId } from '../../pci/requester-id.ts';
import {
  type Chain,
  deviceConfig,
  type VirtioClass,
  VirtioFunction,
  type VirtioResetCause,
  type Virtqueue,
} from '../../virtio/index.ts';
import {
  DOMAIN_END,
  DOMAIN_START,
  INPUT_END,
  INPUT_START,
  PAGE_SIZE_MASK,
} from './address-space.ts';
import { FAULT_REPORT_BYTES, faultReport } from './fault-report.ts';
import { GuestDomains } from './guest-domains.ts';
import { PROBE_BYTES } from './probe.ts';
import { IommuFeature, REQUEST_BYTES_MAX, REQUEST_BYTES_USUAL } from './request.ts';
import { RequestHandler, type RequestListener } from './request-handler.ts';

/** Fault reports that wait for the end of this turn of the event loop. */
const REPORTS_MAX = 64;

export interface VirtioIommuOptions extends FunctionOptions {
  /** What the guest programs through it. */
  readonly iommu: Iommu;
  /** Mappings that the guest may make, in all its domains. */
  readonly mappingsMax?: number;
}

export interface IommuCounters {
  /** Requests served, those that were refused among them. */
  requests: number;
  /** Requests that went back without a reply: no such type, no head, no room for a status. */
  unanswered: number;
  /** Fault reports that the driver got. */
  reports: number;
  /** Fault reports that found no buffer, or one too small. */
  reportsDropped: number;
}

/**
 * virtio-iommu (virtio 1.2 §5.13): the guest's own driver decides, page by page, what the functions
 * behind it may reach. It is a function like others, on a port of its own, and never behind itself.
 *
 * Until a driver says else, endpoints are in bypass mode: firmware boots before any driver.
 */
export class VirtioIommu extends VirtioFunction {
  static override readonly virtio: VirtioClass = {
    type: 23,
    class: 0x080600,
    features: Object.values(IommuFeature),
    queues: [
      { name: 'request', size: 256, prefetch: REQUEST_BYTES_USUAL },
      { name: 'event', size: 64 },
    ],
  };

  /** §5.13.4. */
  readonly config = deviceConfig({
    pageSizeMask: ro64(0, { reset: PAGE_SIZE_MASK }),
    inputStart: ro64(8, { reset: INPUT_START }),
    inputEnd: ro64(16, { reset: INPUT_END }),
    domainStart: ro32(24, { reset: DOMAIN_START }),
    domainEnd: ro32(28, { reset: DOMAIN_END }),
    probeSize: ro32(32, { reset: PROBE_BYTES }),
    bypass: reg8(36, {
      reset: 1,
      lockedWhile: (): boolean => !this.negotiated(IommuFeature.bypassConfig),
      onWrite: (now, before) => this.#setBypass(now, before),
    }),
  });

  readonly counters: IommuCounters = { requests: 0, unanswered: 0, reports: 0, reportsDropped: 0 };
  readonly #domains: GuestDomains;
  readonly #handler: RequestHandler;
  readonly #request = new Uint8Array(REQUEST_BYTES_MAX);
  readonly #reports: Uint8Array[] = [];
  #driverOk = false;
  readonly #deaf: () => void;

  constructor(options: VirtioIommuOptions) {
    super(options);
    const { iommu } = options;
    this.#domains = new GuestDomains(iommu, options.mappingsMax);
    this.#handler = new RequestHandler(this.#domains, (feature) => this.negotiated(feature));
    this.#deaf = iommu.faults.onFault((fault) => this.#onFault(fault));
  }

  /** To be called when its guest is gone: hears of no fault any more, and lets go of its domains. */
  close(): void {
    this.#deaf();
    this.#domains.reset();
  }

  /** What the guest has set up, for those who watch. */
  get domains(): Pick<GuestDomains, 'domains' | 'mappings' | 'bypass' | 'hasEndpoint'> {
    return this.#domains;
  }

  /** Puts a function behind it. @throws Error where the device table has no entry for it */
  addEndpoint(rid: RequesterId): void {
    this.#domains.addEndpoint(rid);
  }

  /** Takes a function out from behind it, which is pulled out. */
  removeEndpoint(rid: RequesterId): void {
    this.#domains.removeEndpoint(rid);
  }

  /** Calls `listener` with each request that is answered, for those who watch. Answers how to stop. */
  onRequest(listener: RequestListener): () => void {
    return this.#handler.onRequest(listener);
  }

  protected override onDriverOk(): void {
    this.#driverOk = true;
  }

  /** The driver's reset keeps `bypass` as it is; with a reset of the whole system it starts anew. */
  protected override onDeviceReset(cause: VirtioResetCause): void {
    this.#driverOk = false;
    this.#reports.length = 0;
    if (cause === 'device' || cause === 'connection-lost') this.#domains.bypass = true;
    this.config.bypass = this.#domains.bypass ? 1 : 0;
    this.#domains.reset();
  }

  protected override onQueue(queue: Virtqueue): void {
    // Buffers on the event queue wait there until there is something to report.
    if (queue.name !== 'request') return;
    // One ring full at a time: what is left then is another call's, after others had their turn.
    for (let left = queue.size; left > 0; left--) {
      const chain = queue.take();
      if (chain === undefined) return;
      const request = this.#request.subarray(0, Math.min(chain.readable, REQUEST_BYTES_MAX));
      if (request.length > 0) chain.readInto(request);
      const reply = this.#handler.serve(request, chain.writable);
      this.counters.requests++;
      if (reply === undefined) this.counters.unanswered++;
      else chain.write(reply);
      queue.put(chain);
    }
  }

  #setBypass(now: number, before: number): void {
    // The device must not present anything but 0 or 1, whatever is written.
    if (now > 1) this.config.bypass = before;
    else this.#domains.bypass = now === 1;
  }

  /**
   * Takes note of a fault of an endpoint. It is reported on the next turn of the event loop: this
   * one is in the middle of a DMA.
   */
  #onFault(fault: FaultRecord): void {
    if (!this.#driverOk || !this.#domains.hasEndpoint(fault.rid)) return;
    const report = faultReport(fault);
    if (report === undefined) return;
    if (this.#reports.length >= REPORTS_MAX) {
      this.counters.reportsDropped++;
      return;
    }
    this.#reports.push(report);
    if (this.#reports.length === 1) this.clock.after(0, () => this.#report());
  }

  #report(): void {
    const queue = this.queue('event');
    const reports = this.#reports.splice(0);
    try {
      let chain: Chain | undefined;
      for (const [n, report] of reports.entries()) {
        // Where one found no buffer, those behind it find none either: each look is a turn to memory.
        if (n === 0 || chain !== undefined) chain = queue.take();
        if (chain !== undefined && this.#fill(chain, report)) this.counters.reports++;
        else this.counters.reportsDropped++;
        if (chain !== undefined) queue.put(chain);
      }
      queue.flush();
    } catch (error) {
      if (!(error instanceof DmaAbort)) throw error;
      this.needsReset(`an event buffer is not reachable: ${error.message}`);
    }
  }

  #fill(chain: Chain, report: Uint8Array): boolean {
    if (chain.writable < FAULT_REPORT_BYTES) return false;
    chain.write(report);
    return true;
  }
}
