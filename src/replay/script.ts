/** One function's part of a trace: what came to it, and what it did in between. */
import type {
  AlarmEvent,
  DeviceErrorEvent,
  DmaEvent,
  FaultEvent,
  FunctionEvent,
  InjectedEvent,
  InterruptEvent,
  InterruptModeEvent,
  RegisterEvent,
  ResetEvent,
  TraceEvent,
  UnmodelledEvent,
} from '../trace/event.ts';

/** What comes to a function from outside; it is played. */
export type InputEvent = RegisterEvent | ResetEvent | AlarmEvent;
/** What a function does; it is compared. An answer to its question stands where it was asked. */
export type OutputEvent =
  | DmaEvent
  | FaultEvent
  | InterruptEvent
  | InterruptModeEvent
  | UnmodelledEvent
  | DeviceErrorEvent;

/** An event and its line in the trace's NDJSON, whose header is line 1. */
export interface Placed<Event extends TraceEvent = TraceEvent> {
  readonly line: number;
  readonly event: Event;
}

export interface PlacedOutput extends Placed<OutputEvent> {
  /** How many inputs came before it. */
  readonly after: number;
}

export interface Script {
  readonly rid: string;
  /** How the function was plugged in. */
  readonly plugged: Placed<FunctionEvent>;
  readonly inputs: readonly Placed<InputEvent>[];
  readonly outputs: readonly PlacedOutput[];
  /** Faults on demand that struck it. */
  readonly injected: readonly Placed<InjectedEvent>[];
  /** All of its events, in order. */
  readonly all: readonly Placed[];
}

const HEADER_LINES = 1;

/** The functions of a trace; of several that came to one place, one after the other, the last. */
export function functionsIn(events: readonly TraceEvent[]): readonly FunctionEvent[] {
  const functions = new Map<string, FunctionEvent>();
  for (const event of events) if (event.kind === 'function') functions.set(event.rid, event);
  return [...functions.values()];
}

/** @param plugged of {@link functionsIn}: what came before it to its place was another's */
export function scriptOf(events: readonly TraceEvent[], plugged: FunctionEvent): Script {
  const { rid } = plugged;
  const inputs: Placed<InputEvent>[] = [];
  const outputs: PlacedOutput[] = [];
  const injected: Placed<InjectedEvent>[] = [];
  const all: Placed[] = [];
  const from = events.indexOf(plugged);
  const place: Placed<FunctionEvent> = { line: from + HEADER_LINES + 1, event: plugged };
  for (const [index, event] of events.entries()) {
    if (index < from || event.kind === 'iommu' || event.rid !== rid) continue;
    const line = index + HEADER_LINES + 1;
    all.push({ line, event });
    switch (event.kind) {
      case 'function':
        break;
      case 'register':
      case 'reset':
      case 'alarm':
        inputs.push({ line, event });
        break;
      case 'injected':
        injected.push({ line, event });
        break;
      default:
        outputs.push({ line, event, after: inputs.length });
    }
  }
  return { rid, plugged: place, inputs, outputs, injected, all };
}
