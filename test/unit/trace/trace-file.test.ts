/** What is written is what is recorded, in order and whole, and a disk that fails does not reach the device. */
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test, vi } from 'vitest';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { traceOfEnvironment } from '../../../src/trace/environment.ts';
import { readTrace, Trace, type TraceEvent } from '../../../src/trace/index.ts';
import { MemoryFunction } from '../../protocol/vfio-user/memory-function.ts';
import { Bench } from '../pci/bench.ts';
import { TracedDevice } from './traced-device.ts';

const scratch = mkdtempSync(join(tmpdir(), 'sealbus-trace-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const RID = parseRequesterId('00:05.0');
let files = 0;
const newPath = () => join(scratch, `trace-${++files}.ndjson`);

/** Without what differs between two recordings of the same. */
function timeless(events: readonly TraceEvent[]) {
  return events.map((event) => {
    const { t, took, ...rest } = event as TraceEvent & { took?: number };
    return rest;
  });
}

type Access = { offset: number; width: 1 | 2 | 4 | 8; value: bigint; write: boolean };

const access = fc.record({
  offset: fc.oneof(fc.nat(0x60), fc.integer({ min: 0xf8, max: 0x148 }), fc.nat(4088)),
  width: fc.constantFrom<1 | 2 | 4 | 8>(1, 2, 4, 8),
  value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  write: fc.boolean(),
});

function play(trace: Trace, accesses: readonly Access[]): void {
  const bench = new Bench(trace.around(new TracedDevice(), RID));
  for (const { offset, width, value, write } of accesses) {
    if (write) bench.write(offset, value, width);
    else bench.readWide(offset, width);
  }
}

test('lines that are put together as bytes say what the events say', () => {
  fc.assert(
    fc.property(fc.array(access, { maxLength: 30 }), (accesses) => {
      const path = newPath();
      const memory = new Trace();
      const written = new Trace({ sink: path });
      play(memory, accesses);
      play(written, accesses);
      written.end();
      const read = readTrace(path);
      expect(timeless(read.events)).toEqual(timeless(memory.events));
      expect(read.end).toMatchObject({ events: memory.events.length, dropped: 0 });
      // The same keys in the same order, so that text tools find them.
      const keys = (events: readonly TraceEvent[]) => events.map((event) => Object.keys(event));
      expect(keys(read.events)).toEqual(keys(memory.events));
    }),
    { numRuns: 60 },
  );
});

test('names that JSON has to escape are escaped', () => {
  const path = newPath();
  const trace = new Trace({ sink: path });
  const inner = new MemoryFunction();
  const register = {
    ...{ name: 'a "quoted" \\ näme\n', offset: 0, width: 4, count: 1, stride: 4 },
    access: 'read-write' as const,
    fields: { '\u{1f600} "x"': { low: 0, bits: 8 } },
  };
  const device = Object.assign(inner, { registerMap: [[register]] });
  const bench = new Bench(trace.around(device, RID));
  bench.write(0, 0x1234);
  trace.end();
  expect(readTrace(path).events[1]).toMatchObject({
    register: register.name,
    fields: { '\u{1f600} "x"': 0x34 },
  });
});

test('what a trace in memory writes is whole, and may be written again later', () => {
  const path = newPath();
  const trace = new Trace({ eventsMax: 4, dataBytesMax: Number.POSITIVE_INFINITY });
  const bench = new Bench(trace.around(new TracedDevice(), RID));
  bench.write(0, 1);
  trace.writeTo(path);
  expect(readTrace(path)).toMatchObject({ cut: false, end: { events: 2, dropped: 0 } });
  for (let n = 0; n < 5; n++) bench.write(0, n);
  trace.writeTo(path);
  const read = readTrace(path);
  expect(read).toMatchObject({
    header: { ...trace.header, dataBytesMax: null },
    end: { events: 4, dropped: 3 },
  });
  expect(read.events).toEqual(trace.events);
});

test('a file takes so many events, and its end says how many found no room', () => {
  const path = newPath();
  const trace = new Trace({ sink: path, eventsMax: 1000 });
  const bench = new Bench(trace.around(new TracedDevice(), RID));
  for (let n = 0; n < 1500; n++) bench.read(4);
  trace.end();
  const { events, end } = readTrace(path);
  expect([events.length, end?.events, end?.dropped]).toEqual([1000, 1000, 501]);
});

test('a trace that goes to a file keeps nothing in memory, and says so', () => {
  const path = newPath();
  const trace = new Trace({ sink: path });
  expect(() => trace.events).toThrow(/written to .*readTrace/);
  expect(() => trace.writeTo(newPath())).toThrow(/readTrace/);
  trace.end();
});

test('what waits is written before long, also where nothing comes after it', async () => {
  const path = newPath();
  const trace = new Trace({ sink: path });
  trace.around(new TracedDevice(), RID);
  await vi.waitFor(() => expect(readTrace(path)).toMatchObject({ cut: true, events: [{}] }), 5000);
  trace.end();
  expect(readTrace(path).cut).toBe(false);
});

test('the file is for its owner alone', () => {
  const path = newPath();
  new Trace({ sink: path }).end();
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('a full disk ends the trace, not the device, and is said at the end', () => {
  const trace = new Trace({ sink: '/dev/full' });
  const bench = new Bench(trace.around(new TracedDevice(), RID));
  for (let n = 0; n < 1000; n++) bench.write(0x20, n, 2);
  expect(bench.read(0x20, 2)).toBe(999);
  expect(() => trace.end()).toThrow(/trace \/dev\/full ends early.*ENOSPC/);
  expect(trace.dropped).toBe(1002);
});

test('a file that cannot be made is named', () => {
  expect(() => new Trace({ sink: join(scratch, 'none/trace') })).toThrow(
    /expected to write a trace to .*none\/trace, got: ENOENT/,
  );
});

test('the environment asks for a trace: a file for each, whoever made one before', () => {
  const directory = join(scratch, 'made/by/it');
  const environment = { SEALBUS_TRACE: directory, SEALBUS_TRACE_DATA: '16' };
  const traces = [traceOfEnvironment(environment), traceOfEnvironment(environment)];
  for (const trace of traces) trace?.end();
  expect(traces.map((trace) => trace?.dataBytesMax)).toEqual([16, 16]);
  for (const n of [1, 2]) {
    const text = readFileSync(join(directory, `machine-${process.pid}-${n}.ndjson`), 'utf8');
    expect(JSON.parse(text.split('\n')[0] ?? '')).toMatchObject({
      kind: 'trace',
      dataBytesMax: 16,
    });
  }
  expect(traceOfEnvironment({})).toBeUndefined();
  expect(traceOfEnvironment({ SEALBUS_TRACE: '' })).toBeUndefined();
});

test.each([
  [{ SEALBUS_TRACE_DATA: '16K' }, /SEALBUS_TRACE_DATA to be a whole number or 'all', got '16K'/],
  [{ SEALBUS_TRACE_EVENTS: '-1' }, /SEALBUS_TRACE_EVENTS to be a whole number.*got '-1'/],
  [{ SEALBUS_TRACE: '/dev/null/x' }, /SEALBUS_TRACE to name a directory, got: /],
])('an environment that makes no sense is refused: %o', (more, words) => {
  expect(() => traceOfEnvironment({ SEALBUS_TRACE: scratch, ...more })).toThrow(words);
});
