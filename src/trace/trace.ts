import { VirtioIommu } from '../devices/iommu/virtio-iommu.ts';
import type { DmaDone } from '../iommu/dma-watch.ts';
import type { FaultRecord } from '../iommu/fault-log.ts';
import type { Iommu } from '../iommu/iommu.ts';
import type { Instrument } from '../machine/instrument.ts';
import type { Machine } from '../machine/machine.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { type RequesterId, segmentOf } from '../pci/requester-id.ts';
import { TRACE_VERSION, type TracedBar, type TraceEvent, type TraceHeader } from './event.ts';
import { hex, ridText } from './event-text.ts';
import { iommuEvent } from './iommu-event.ts';
import { Journal } from './journal.ts';
import { RecordedDma, RecordedEvent, type Untimed } from './recorded.ts';
import { RegisterNames } from './register-names.ts';
import { TraceWriter, traceLine } from './trace-writer.ts';
import { TracedEndpoint } from './traced-endpoint.ts';

/** In memory; some 300 MB of them. */
const EVENTS_MAX = 1_000_000;
/** In a file; some 2 GB of them. */
const EVENTS_MAX_FILE = 10_000_000;
const DATA_BYTES_TOTAL_MAX = 256 * 2 ** 20;

export interface TraceOptions {
  /** How many of each DMA's bytes are kept, in the clear. Default 0: none; Infinity: all. */
  readonly dataBytesMax?: number;
  /**
   * Events it takes; those after are counted and dropped. Default 1,000,000 in memory, 10,000,000 in a file.
   */
  readonly eventsMax?: number;
  /** Bytes of data that are kept in memory; events that would go beyond are dropped. Default 256 MiB. */
  readonly dataBytesTotalMax?: number;
  /** A file to write to. Default: events are kept in memory. */
  readonly sink?: string | TraceWriter;
}

/**
 * Records what passes between a machine's functions, its guest and its memory.
 *
 *     const trace = new Trace();
 *     const machine = await Machine.create({ …, instruments: [trace] });
 *     …
 *     trace.events.filter(({ kind }) => kind === 'dma');
 */
export class Trace implements Instrument {
  readonly dataBytesMax: number;
  readonly #epochMs = Date.now();
  readonly #journal: Journal;
  readonly #unwatch: (() => void)[] = [];
  #memory: TraceHeader['memory'] = 'plain';

  /** @throws RangeError; Error where the file cannot be made */
  constructor(options: TraceOptions = {}) {
    const { dataBytesMax = 0, dataBytesTotalMax = DATA_BYTES_TOTAL_MAX, sink } = options;
    const writer = typeof sink === 'string' ? new TraceWriter(sink) : sink;
    const { eventsMax = writer === undefined ? EVENTS_MAX : EVENTS_MAX_FILE } = options;
    checkCount('dataBytesMax', dataBytesMax);
    checkCount('eventsMax', eventsMax);
    checkCount('dataBytesTotalMax', dataBytesTotalMax);
    this.dataBytesMax = dataBytesMax;
    this.#journal = new Journal({
      ...{ eventsMax, bytesMax: dataBytesTotalMax, writer },
      header: () => this.header,
    });
  }

  get header(): TraceHeader {
    const { dataBytesMax } = this;
    return {
      kind: 'trace',
      version: TRACE_VERSION,
      epochMs: this.#epochMs,
      memory: this.#memory,
      dataBytesMax: Number.isFinite(dataBytesMax) ? dataBytesMax : null,
    };
  }

  /** So far, in order. @throws Error where they go to a file */
  get events(): readonly TraceEvent[] {
    return this.#journal.events;
  }

  /** Events that found no room. */
  get dropped(): number {
    return this.#journal.dropped;
  }

  /** Adds an event of now. */
  record(event: Untimed): void {
    this.#journal.add(new RecordedEvent(this.#journal.now(), event));
  }

  /** A fault on demand struck. */
  injected(rid: RequesterId, fault: string, detail: string): void {
    this.record({ kind: 'injected', rid: ridText(rid), fault, detail });
  }

  install(machine: Machine): void {
    const memory = machine.sealed === undefined ? 'plain' : 'sealed';
    this.watch(machine.iommu, memory, machine.segment);
  }

  /** Records the DMA of an IOMMU's PCI segment beside whoever observes it already. */
  watch(iommu: Iommu, memory: TraceHeader['memory'], segment = 0): void {
    this.#memory = memory;
    const watched = iommu.segment(segment);
    const { observer } = watched;
    watched.observer = {
      done: (dma) => {
        observer?.done(dma);
        this.#dma(dma);
      },
    };
    const onFault = (fault: FaultRecord) => {
      if (segmentOf(fault.rid) === segment) this.#fault(fault);
    };
    this.#unwatch.push(iommu.faults.onFault(onFault));
  }

  around(endpoint: PciEndpoint, rid: RequesterId, device: PciEndpoint = endpoint): PciEndpoint {
    const bars = tracedBars(device);
    const names = new RegisterNames(ridText(rid), bars);
    this.record({
      kind: 'function',
      rid: names.rid,
      name: device.constructor.name,
      identity: { ...device.identity },
      interrupts: { ...device.interruptVectors },
      bars,
    });
    if (device instanceof VirtioIommu) {
      device.onRequest((type, request, status) => this.record(iommuEvent(type, request, status)));
    }
    const alarms = this.dataBytesMax === Number.POSITIVE_INFINITY;
    return new TracedEndpoint(endpoint, names, this.#journal, alarms);
  }

  /** Nothing is recorded from here on. @throws Error where the file could not be written */
  end(): void {
    for (const stop of this.#unwatch.splice(0)) stop();
    this.#journal.close();
  }

  /** Writes what there is so far as a whole trace. @throws Error as {@link events}, or where it cannot */
  writeTo(path: string): void {
    const { events } = this;
    const end = { ...this.#journal.end(), events: events.length };
    const writer = new TraceWriter(path);
    writer.write(traceLine(this.header));
    for (const event of events) writer.write(traceLine(event));
    writer.write(traceLine(end));
    writer.close();
    if (writer.failure !== undefined) throw writer.failure;
  }

  #dma(dma: DmaDone): void {
    const journal = this.#journal;
    const isPrivate = this.#memory === 'sealed';
    journal.add(new RecordedDma(journal.now(), dma, isPrivate, this.dataBytesMax));
  }

  #fault(fault: FaultRecord): void {
    const { rid, direction, iova, length, reason, slot, generation, refused } = fault;
    // What was done has its own event, which says of each piece whether it met pages of the other kind.
    if (!refused) return;
    this.record({
      kind: 'fault',
      rid: ridText(rid),
      direction,
      iova: hex(iova),
      bytes: length,
      reason,
      ...(slot === undefined ? {} : { slot }),
      ...(generation === undefined ? {} : { generation }),
    });
  }
}

function tracedBars(device: PciEndpoint): TracedBar[] {
  return device.bars.flatMap((window, bar) => {
    if (window === undefined) return [];
    return [{ bar, size: window.size, registers: device.registerMap?.[bar] ?? [] }];
  });
}

function checkCount(name: string, value: number): void {
  if (!(value >= 0 && (Number.isSafeInteger(value) || value === Number.POSITIVE_INFINITY))) {
    throw new RangeError(
      `expected ${name} to be a whole number from 0 on or Infinity, got ${value}`,
    );
  }
}
