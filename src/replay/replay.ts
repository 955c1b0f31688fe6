import type { Clock } from '../pci/clock.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { parseRequesterId } from '../pci/requester-id.ts';
import type { FunctionEvent, TraceEnd, TraceEvent, TraceHeader } from '../trace/event.ts';
import { ridText } from '../trace/event-text.ts';
import { type Difference, differenceText } from './difference.ts';
import { Player } from './player.ts';
import { ReplayError } from './replay-stop.ts';
import { ReplayTime } from './replay-time.ts';
import { functionsIn, scriptOf } from './script.ts';

/** What is replayed: a Trace, or what readTrace answers. */
export interface RecordedTrace {
  readonly header: TraceHeader;
  readonly events: readonly TraceEvent[];
  /** What readTrace found; of a Trace it is what ends it. */
  readonly end?: TraceEnd | (() => void) | undefined;
  /** Whether it has no end: nothing is known of what came after. */
  readonly cut?: boolean;
  /** Events that found no room; of a Trace in memory. */
  readonly dropped?: number;
}

/** Makes the device anew. `clock` is the recording's time; a device need not take it. */
export type MakeDevice = (given: { readonly clock: Clock }) => PciEndpoint;

export interface ReplayOptions {
  /** Which function, such as `00:05.0`. Default: the one that has the device's vendor and device ID. */
  readonly rid?: string;
  /**
   * How long the device may take with what it does by files or timers of its own, of which a trace does
   * not tell; milliseconds. Default 250.
   */
  readonly patienceMs?: number;
  /** What to call the trace in {@link Replayed.text}. Default `trace`. */
  readonly name?: string;
}

const PATIENCE_MS = 250;
const PATIENCE_MS_MAX = 600_000;

/** How a replay went. */
export class Replayed {
  readonly rid: string;
  /** The name of the recorded device's class. */
  readonly device: string;
  /** Accesses, resets and alarms that were played, of {@link inputs}. */
  readonly played: number;
  readonly inputs: number;
  readonly difference: Difference | undefined;
  /** The trace has no end, or has dropped events: it was replayed as far as it goes. */
  readonly cut: boolean;
  readonly #name: string;

  constructor(
    name: string,
    outcome: Pick<Replayed, 'rid' | 'device' | 'played' | 'inputs' | 'difference' | 'cut'>,
  ) {
    this.rid = outcome.rid;
    this.device = outcome.device;
    this.played = outcome.played;
    this.inputs = outcome.inputs;
    this.difference = outcome.difference;
    this.cut = outcome.cut;
    this.#name = name;
  }

  /** Whether the device did all that it did in the recording, and nothing else. */
  get same(): boolean {
    return this.difference === undefined;
  }

  /** For people. */
  text(): string {
    const { difference, cut, rid, device, played, inputs } = this;
    const cutWords = cut ? '; the trace was cut short, and is replayed as far as it goes' : '';
    if (difference === undefined) {
      return `${rid} ${device}: the same in ${played} accesses, resets and alarms${cutWords}`;
    }
    return (
      `${this.#name}:${difference.line}: ${rid} ${device} differs from the recording, after ${played} of ` +
      `${inputs} accesses, resets and alarms${cutWords}\n${differenceText(difference)}`
    );
  }

  /** For tests. @throws Error with {@link text} where it differs */
  check(): void {
    if (!this.same) throw new Error(this.text());
  }
}

/**
 * Plays a recorded session against a device alone: no guest, no socket, no guest memory. Accesses, resets,
 * the answers about interrupts, and what its DMA read or was refused come from the trace, at the place that
 * they had; what the device answers, writes, raises and throws is compared, up to the first difference.
 *
 * @throws ReplayError where trace, device and options do not fit together, with what to do; SyntaxError
 *   where `rid` is no requester ID
 */
export async function replay(
  trace: RecordedTrace,
  makeDevice: MakeDevice,
  options: ReplayOptions = {},
): Promise<Replayed> {
  const { patienceMs = PATIENCE_MS, name = 'trace', rid } = options;
  if (!(patienceMs >= 0 && patienceMs <= PATIENCE_MS_MAX)) {
    throw new RangeError(`expected a patience of 0 to ${PATIENCE_MS_MAX} ms, got ${patienceMs}`);
  }
  const { header, events } = trace;
  // Only where all data is kept are alarms recorded as well.
  const time = new ReplayTime(header.dataBytesMax === null);
  const device = makeDevice({ clock: time.clock });
  const plugged = chosen(functionsIn(events), device, rid);
  const script = scriptOf(events, plugged);
  const cut = trace.cut === true || droppedBy(trace) > 0;
  const player = new Player(script, device, time, { cut, patienceMs });
  const difference = await player.play();
  return new Replayed(name, {
    ...{ rid: script.rid, device: plugged.name, played: player.played },
    ...{ inputs: script.inputs.length, difference, cut },
  });
}

function droppedBy({ dropped = 0, end }: RecordedTrace): number {
  return typeof end === 'object' ? end.dropped : dropped;
}

function chosen(
  functions: readonly FunctionEvent[],
  device: PciEndpoint,
  rid: string | undefined,
): FunctionEvent {
  const there = functions.map((one) => `${one.rid} ${one.name}`).join(', ') || 'none';
  if (rid !== undefined) {
    const wanted = ridText(parseRequesterId(rid));
    const found = functions.find((one) => one.rid === wanted);
    if (found !== undefined) return found;
    throw new ReplayError(`expected function ${rid} in the trace, got: ${there}`);
  }
  const { vendor, device: id } = device.identity;
  const alike = functions.filter(
    ({ identity }) => identity.vendor === vendor && identity.device === id,
  );
  const [only, ...more] = alike.length > 0 ? alike : functions;
  if (only !== undefined && more.length === 0) return only;
  throw new ReplayError(
    only === undefined
      ? 'expected a function in the trace, got none: was a device plugged in while it was recorded?'
      : `expected to know which function to replay, got several that it may be: ${there}. ` +
          'Name one, with the option rid',
  );
}
