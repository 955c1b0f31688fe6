/** What is on record of a device under test: where it is plugged in, and the trace that it is in. */
import type { Machine } from '../machine/machine.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { TraceEvent } from '../trace/event.ts';
import { ridText } from '../trace/event-text.ts';
import type { Trace } from '../trace/trace.ts';

export interface DeviceJournal {
  readonly rid: RequesterId;
  readonly trace: Trace;
  /** Undefined while none has it. */
  readonly machine: Machine | undefined;
}

const journals = new WeakMap<PciEndpoint, DeviceJournal>();

export function keepJournal(device: PciEndpoint, journal: DeviceJournal): void {
  journals.set(device, journal);
}

/** @throws TypeError where it is no device of a test */
export function journalOf(device: unknown): DeviceJournal {
  const journal =
    typeof device === 'object' && device !== null ? journals.get(device as PciEndpoint) : undefined;
  if (journal !== undefined) return journal;
  throw new TypeError(
    'expected a device of this test (the fixture device, or one of devices), got something else',
  );
}

/** The device's own events of a kind, in order. */
export function eventsOf<Kind extends TraceEvent['kind']>(
  { rid, trace }: DeviceJournal,
  kind: Kind,
): Extract<TraceEvent, { kind: Kind }>[] {
  const name = ridText(rid);
  return trace.events.filter(
    (event): event is Extract<TraceEvent, { kind: Kind }> =>
      event.kind === kind && (!('rid' in event) || event.rid === name),
  );
}
