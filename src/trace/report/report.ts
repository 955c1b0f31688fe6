import type { TraceEnd, TraceEvent, TraceHeader } from '../event.ts';
import { FunctionFindings, type FunctionReport } from './function-report.ts';
import { type MappingReport, Mappings } from './mappings.ts';

/** What a trace has to say to those who write the driver. Times are nanoseconds since it began. */
export interface TraceReport {
  readonly header: TraceHeader;
  readonly events: number;
  /** Events that found no room in it. */
  readonly dropped: number;
  /** It was cut short: what came after is not known. */
  readonly cut: boolean;
  /** From its beginning to its last event. */
  readonly ns: number;
  readonly functions: readonly FunctionReport[];
  /** Undefined where the guest made no request of a virtio-iommu. */
  readonly mappings: MappingReport | undefined;
}

/** A trace as the reader gives it: `end` is known once all events were taken. */
export interface TraceSource {
  readonly header: TraceHeader;
  events(): Iterable<TraceEvent>;
  readonly end: TraceEnd | undefined;
}

/** Goes through a trace once; it need not fit memory. @throws what the source throws */
export function reportOf(source: TraceSource): TraceReport {
  /** In the order in which they came; at one place there may be one after the other. */
  const all: FunctionFindings[] = [];
  const there = new Map<string, FunctionFindings>();
  const iommus = new Set<string>();
  const mappings = new Mappings();
  let mapped = false;
  let events = 0;
  let t = 0;
  for (const event of source.events()) {
    events++;
    t = event.t;
    if (event.kind === 'iommu') {
      mapped = true;
      mappings.request(event);
      continue;
    }
    const { rid } = event;
    const begun = (found: FunctionFindings) => {
      all.push(found);
      there.set(rid, found);
      return found;
    };
    if (event.kind === 'function') {
      begun(new FunctionFindings(event));
      if (isVirtioIommu(event)) iommus.add(rid);
      continue;
    }
    const findings = there.get(rid) ?? begun(new FunctionFindings({ rid, name: '', bars: [] }));
    findings.take(event);
    if (event.kind === 'dma') mappings.dma(event);
    if (iommus.has(rid) && isReset(event)) mappings.reset();
  }
  const { header, end } = source;
  const ns = Math.max(t, end?.t ?? 0);
  return {
    ...{ header, events, dropped: end?.dropped ?? 0, cut: end === undefined, ns },
    functions: all.map((findings) => findings.report(ns)),
    mappings: mapped ? mappings.report : undefined,
  };
}

/** virtio 1.2 §4.1.2: 0x1040 and the device type, which is 23 (§5.13). */
function isVirtioIommu({ identity }: Extract<TraceEvent, { kind: 'function' }>): boolean {
  return identity.vendor === 0x1af4 && identity.device === 0x1040 + 23;
}

/** A reset of the function, or the driver's, which writes 0 to the device status. */
function isReset(event: TraceEvent): boolean {
  if (event.kind === 'reset') return true;
  if (event.kind !== 'register' || event.direction !== 'write') return false;
  return event.register === 'deviceStatus' && event.value === '0x0';
}
