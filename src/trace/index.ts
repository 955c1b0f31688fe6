/** Traces: recording what passes between functions, guest and memory, and reading it again. */
export type * from './event.ts';
export { TRACE_VERSION } from './event.ts';
export { type PerfettoSource, perfettoJson } from './perfetto.ts';
export { openTrace, type ReadTrace, readTrace, TraceFile } from './read-trace.ts';
export type { Untimed } from './recorded.ts';
export { reportOf, type TraceReport, type TraceSource } from './report/report.ts';
export { Trace, type TraceOptions } from './trace.ts';
