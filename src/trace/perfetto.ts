/**
 * A trace for ui.perfetto.dev, in the JSON of the Trace Event Format, which it opens beside its own
 * protobuf: one pass and no library write it, a text tool reads it, and chrome://tracing opens it too.
 * A machine is a process there and a function a track. What takes time is a complete event (`X`), all
 * else an instant one (`i`, of its thread); metadata (`M`) names processes and threads.
 */
import type { TraceEvent, TraceHeader } from './event.ts';

/** A machine's trace. */
export interface PerfettoSource {
  /** What to call it. */
  readonly name: string;
  readonly header: TraceHeader;
  readonly events: Iterable<TraceEvent>;
}

/** One event of the Trace Event Format; times are microseconds. */
export interface PerfettoEvent {
  readonly ph: 'X' | 'i' | 'M';
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  readonly cat?: string;
  readonly ts?: number;
  readonly dur?: number;
  /** Of an instant: of its thread. */
  readonly s?: 't';
  readonly args?: Readonly<Record<string, unknown>>;
}

/** Thread IDs are one space to Perfetto, whatever their process, and 0 means something else. */
const TRACKS_MAX = 1000;

/** The text of the whole file, in pieces. Machines keep their distance in time. */
export function* perfettoJson(sources: readonly PerfettoSource[]): Generator<string, void, void> {
  const began = Math.min(...sources.map(({ header }) => header.epochMs));
  let separator = '{"traceEvents":[\n';
  for (const [index, source] of sources.entries()) {
    for (const event of perfettoEvents(source, index + 1, source.header.epochMs - began)) {
      yield `${separator}${JSON.stringify(event)}`;
      separator = ',\n';
    }
  }
  yield '\n]}\n';
}

/** @param laterMs how much later than the first machine's this trace began */
function* perfettoEvents(
  { name, header, events }: PerfettoSource,
  pid: number,
  laterMs: number,
): Generator<PerfettoEvent, void, void> {
  const memory = `${header.memory} memory`;
  yield metadata('process_name', pid, pid, { name: `${name} (${memory})` });
  const tracks = new Map<string, number>();
  for (const event of events) {
    const track = 'rid' in event ? event.rid : 'IOMMU requests';
    let tid = tracks.get(track);
    if (tid === undefined) {
      tid = pid * TRACKS_MAX + Math.min(tracks.size, TRACKS_MAX - 1);
      tracks.set(track, tid);
      const title = event.kind === 'function' ? `${event.rid} ${event.name}` : track;
      yield metadata('thread_name', pid, tid, { name: title });
      yield metadata('thread_sort_index', pid, tid, { sort_index: tracks.size });
    }
    const ts = laterMs * 1000 + event.t / 1000;
    const { title, args } = shown(event);
    const common = { name: title, cat: event.kind, pid, tid, ts, args };
    if (event.kind === 'register' && event.took !== undefined) {
      yield { ph: 'X', ...common, dur: event.took / 1000 };
    } else {
      yield { ph: 'i', ...common, s: 't' };
    }
  }
}

function metadata(
  name: string,
  pid: number,
  tid: number,
  args: Readonly<Record<string, unknown>>,
): PerfettoEvent {
  return { ph: 'M', name, pid, tid, args };
}

/** The title groups what is alike; the arguments tell the rest. */
function shown(event: TraceEvent): { title: string; args: Readonly<Record<string, unknown>> } {
  const title = titleOf(event);
  if (event.kind === 'function') {
    const { rid, name, identity, interrupts } = event;
    return { title, args: { rid, name, identity, interrupts } };
  }
  const { t, kind, ...args } = event;
  return { title, args };
}

function titleOf(event: TraceEvent): string {
  switch (event.kind) {
    case 'function':
      return `${event.name} is plugged in`;
    case 'register': {
      const { direction, register, bar, offset } = event;
      return `${direction} ${register ?? `BAR${bar}+0x${offset.toString(16)}`}`;
    }
    case 'dma':
      return `DMA ${event.direction}`;
    case 'fault':
      return `DMA ${event.direction} refused: ${event.reason}`;
    case 'interrupt':
      if (event.how === 'intx') return event.asserted ? 'INTx asserted' : 'INTx deasserted';
      return `${event.how === 'msi' ? 'MSI' : 'MSI-X'} ${event.vector}`;
    case 'interrupt-mode':
      return `interrupts: ${event.mode}`;
    case 'reset':
      return `reset: ${event.cause}`;
    case 'alarm':
      return 'alarm';
    case 'unmodelled':
      return `unmodelled ${event.direction}`;
    case 'iommu':
      return event.status === 0
        ? event.command.toUpperCase()
        : `${event.command.toUpperCase()} refused`;
    case 'device-error':
      return 'the device threw';
    case 'injected':
      return `fault: ${event.fault}`;
  }
}
