import {
  TRACE_VERSION,
  type TraceEnd,
  type TraceEvent,
  type TraceHeader,
  type TraceLine,
} from './event.ts';
import { checkLine } from './event-shape.ts';
import { type Line, linesOf } from './line-reader.ts';

/** The data of the longest DMA, 16 MiB, in hexadecimal digits, and room for the rest. */
const LINE_BYTES_MAX = 40 * 2 ** 20;

export interface ReadTrace {
  readonly header: TraceHeader;
  readonly events: readonly TraceEvent[];
  /** Undefined where the trace was cut short. */
  readonly end: TraceEnd | undefined;
  /** No end line: what recorded it was killed, say. What is there is whole. */
  readonly cut: boolean;
}

/**
 * Reads a trace into memory.
 * @throws Error with file and line number where a line is no JSON or no known event; where it is no trace
 */
export function readTrace(path: string): ReadTrace {
  const file = openTrace(path);
  const events = [...file.events()];
  return { header: file.header, events, end: file.end, cut: file.end === undefined };
}

/** Opens a trace that may be too large for memory. @throws Error as {@link readTrace} */
export function openTrace(path: string): TraceFile {
  return new TraceFile(path);
}

export class TraceFile {
  readonly path: string;
  readonly header: TraceHeader;
  #end: TraceEnd | undefined;

  /** @throws Error where it does not begin as a trace */
  constructor(path: string) {
    this.path = path;
    const first = this.#lines().next();
    const value = first.done ? undefined : first.value.line;
    if (value?.kind !== 'trace') {
      throw new Error(`${path}:1: expected the header of a trace, got ${value?.kind ?? 'nothing'}`);
    }
    if (value.version !== TRACE_VERSION) {
      throw new Error(
        `${path}:1: expected a trace of version ${TRACE_VERSION}, got ${value.version}: read it with the sealbus that wrote it`,
      );
    }
    this.header = value;
  }

  /** The last line, once {@link events} has come to it. */
  get end(): TraceEnd | undefined {
    return this.#end;
  }

  /** From the first on, each time it is called. @throws Error as {@link readTrace} */
  *events(): Generator<TraceEvent, void, void> {
    this.#end = undefined;
    let events = 0;
    const lines = this.#lines();
    lines.next();
    for (const { line, number } of lines) {
      const at = `${this.path}:${number}`;
      if (this.#end !== undefined) {
        throw new Error(`${at}: expected nothing after the end line, got '${line.kind}'`);
      }
      if (line.kind === 'trace') throw new Error(`${at}: expected one header, got another`);
      if (line.kind !== 'end') {
        events++;
        yield line;
        continue;
      }
      if (line.events !== events) {
        throw new Error(
          `${at}: expected ${line.events} events before it, as it says, got ${events}: lines are missing`,
        );
      }
      this.#end = line;
    }
  }

  *#lines(): Generator<{ readonly line: TraceLine; readonly number: number }, void, void> {
    for (const read of linesOf(this.path, LINE_BYTES_MAX)) {
      const line = this.#parse(read);
      if (line === undefined) return;
      yield { line, number: read.number };
    }
  }

  /** Undefined of half a last line, which a killed writer leaves. */
  #parse({ number, text, ended }: Line): TraceLine | undefined {
    let given: unknown;
    try {
      given = JSON.parse(text);
    } catch (error) {
      if (!ended && number > 1) return undefined;
      const words = error instanceof Error ? error.message : String(error);
      throw new Error(`${this.path}:${number}: expected a line of JSON, got: ${words}`);
    }
    try {
      return checkLine(given);
    } catch (error) {
      const words = error instanceof Error ? error.message : String(error);
      throw new Error(`${this.path}:${number}: ${words}`);
    }
  }
}
