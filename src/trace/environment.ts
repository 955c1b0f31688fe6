/** How `sealbus trace` reaches the machines of any program: by the environment of the command it runs. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Trace } from './trace.ts';
import { isTaken, TraceWriter } from './trace-writer.ts';

export const traceVariables = {
  /** A directory, to be made where there is none: each machine puts a file of its own there. */
  directory: 'SEALBUS_TRACE',
  /** Bytes of each DMA to keep, or `all`; default none. */
  dataBytesMax: 'SEALBUS_TRACE_DATA',
  /** Events that a file takes. */
  eventsMax: 'SEALBUS_TRACE_EVENTS',
} as const;

/** Files of one process. */
const FILES_MAX = 10_000;

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * A trace where the environment asks for one.
 * @throws Error where it asks for something else than a count, or the file cannot be made
 */
export function traceOfEnvironment(environment: Environment = process.env): Trace | undefined {
  const directory = environment[traceVariables.directory];
  if (directory === undefined || directory === '') return undefined;
  const dataBytesMax = countIn(environment, traceVariables.dataBytesMax);
  const eventsMax = countIn(environment, traceVariables.eventsMax);
  return new Trace({
    sink: newFile(directory),
    ...(dataBytesMax === undefined ? {} : { dataBytesMax }),
    ...(eventsMax === undefined ? {} : { eventsMax }),
  });
}

/** A count as the environment and the command line have it. Undefined where it is none. */
export function parseCount(text: string): number | undefined {
  if (text === 'all') return Number.POSITIVE_INFINITY;
  const value = Number(text);
  return /^\d+$/.test(text) && Number.isSafeInteger(value) ? value : undefined;
}

function countIn(environment: Environment, name: string): number | undefined {
  const text = environment[name];
  if (text === undefined || text === '') return undefined;
  const count = parseCount(text);
  if (count === undefined) {
    throw new Error(`expected ${name} to be a whole number or 'all', got '${text}'`);
  }
  return count;
}

function newFile(directory: string): TraceWriter {
  try {
    mkdirSync(directory, { recursive: true });
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    throw new Error(`expected ${traceVariables.directory} to name a directory, got: ${words}`);
  }
  for (let n = 1; n <= FILES_MAX; n++) {
    try {
      return new TraceWriter(join(directory, `machine-${process.pid}-${n}.ndjson`), true);
    } catch (error) {
      if (!isTaken(error)) throw error;
    }
  }
  throw new Error(
    `expected room for a trace in ${directory}, got ${FILES_MAX} of this process: clear it`,
  );
}
