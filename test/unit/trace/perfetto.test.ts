/**
 * The JSON Object Format of the Trace Event Format document, as far as a Perfetto trace of ours goes:
 * what each phase must have, and what Perfetto makes of IDs and of slices that overlap.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { Trace, type TraceEvent, type TraceHeader } from '../../../src/trace/index.ts';
import { type PerfettoEvent, perfettoJson } from '../../../src/trace/perfetto.ts';
import { Bench } from '../pci/bench.ts';
import { anyEvent } from './any-event.ts';
import { TracedDevice } from './traced-device.ts';

const HEADER: TraceHeader = {
  ...{ kind: 'trace', version: 1, epochMs: 5000, memory: 'plain', dataBytesMax: 0 },
};

function perfettoOf(...machines: readonly (readonly TraceEvent[])[]): PerfettoEvent[] {
  const sources = machines.map((events, n) => {
    return { name: `machine-${n}`, header: { ...HEADER, epochMs: 5000 + n * 20 }, events };
  });
  const parsed = JSON.parse([...perfettoJson(sources)].join(''));
  expect(Object.keys(parsed)).toEqual(['traceEvents']);
  return parsed.traceEvents;
}

/** "Event Descriptions" of the document: what every event has, and what its phase asks for. */
function expectWellFormed(event: PerfettoEvent): void {
  expect(event).toMatchObject({ name: expect.any(String), args: expect.any(Object) });
  for (const id of [event.pid, event.tid]) {
    expect(Number.isInteger(id) && id > 0 && id < 2 ** 31).toBe(true);
  }
  if (event.ph === 'M') {
    const [key, type] =
      event.name === 'thread_sort_index' ? ['sort_index', Number] : ['name', String];
    expect(['process_name', 'thread_name', 'thread_sort_index']).toContain(event.name);
    expect(event.args).toEqual({ [key as string]: expect.any(type as NumberConstructor) });
    return;
  }
  expect(['X', 'i']).toContain(event.ph);
  expect(event.cat).toEqual(expect.any(String));
  expect(event.ts).toBeGreaterThanOrEqual(0);
  if (event.ph === 'X') expect(event.dur).toBeGreaterThanOrEqual(0);
  else expect(event.s).toBe('t');
}

/** Everything that a device can do, by two functions. */
function recorded(): readonly TraceEvent[] {
  const trace = new Trace();
  for (const rid of ['00:05.0', '00:06.0'].map(parseRequesterId)) {
    const bench = new Bench(trace.around(new TracedDevice(), rid));
    bench.write(0x00, 9);
    bench.read(0x200);
    bench.write(0x18, 1);
    bench.write(0x40, 1);
    trace.injected(rid, 'interrupt.lose', 'vector 1');
  }
  trace.record({ kind: 'iommu', command: 'map', status: 0, domain: 1, start: '0x0', end: '0xfff' });
  return trace.events;
}

test('any events make a well-formed trace, one event of it for each', () => {
  fc.assert(
    fc.property(fc.array(anyEvent), fc.array(anyEvent), (first, second) => {
      const all = perfettoOf(first, second);
      for (const event of all) expectWellFormed(event);
      const shown = all.filter(({ ph }) => ph !== 'M');
      expect(shown).toHaveLength(first.length + second.length);
      expect(shown.map(({ cat }) => cat)).toEqual([...first, ...second].map(({ kind }) => kind));
    }),
  );
});

test('each function is a named track of its own, and the IOMMU’s requests are one', () => {
  const all = perfettoOf(recorded());
  const tracks = all
    .filter(({ name }) => name === 'thread_name')
    .map(({ tid, args }) => [tid, args?.name] as const);
  expect(tracks.map(([, name]) => name)).toEqual([
    '00:05.0 TracedDevice',
    '00:06.0 TracedDevice',
    'IOMMU requests',
  ]);
  const names = new Map(tracks);
  expect(names.size).toBe(3);
  for (const { ph, tid, args } of all) {
    if (ph === 'M') continue;
    const of = (args?.rid as string | undefined) ?? 'IOMMU requests';
    expect(names.get(tid)).toMatch(of);
  }
});

test('an access is a slice with its time, its fields and its name; all else is an instant', () => {
  const events: TraceEvent[] = [
    {
      ...{ t: 1_234_567, kind: 'register', rid: '00:05.0', direction: 'write', bar: 0, offset: 0 },
      ...{ width: 4, value: '0x9', register: 'control', fields: { go: 1 }, took: 2500 },
    },
    {
      ...{ t: 1_235_000, kind: 'dma', rid: '00:05.0', direction: 'read', iova: '0x10', bytes: 8 },
      pieces: [{ gpa: '0x10', bytes: 8, slot: 1, private: true }],
    },
  ];
  expect(perfettoOf(events).filter(({ ph }) => ph !== 'M')).toEqual([
    {
      ...{ ph: 'X', name: 'write control', cat: 'register', pid: 1, tid: expect.any(Number) },
      ...{ ts: 1234.567, dur: 2.5 },
      args: {
        ...{ rid: '00:05.0', direction: 'write', bar: 0, offset: 0, width: 4, value: '0x9' },
        ...{ register: 'control', fields: { go: 1 }, took: 2500 },
      },
    },
    {
      ...{ ph: 'i', name: 'DMA read', cat: 'dma', s: 't', pid: 1, tid: expect.any(Number) },
      ts: 1235,
      args: {
        ...{ rid: '00:05.0', direction: 'read', iova: '0x10', bytes: 8 },
        pieces: [{ gpa: '0x10', bytes: 8, slot: 1, private: true }],
      },
    },
  ]);
});

test('slices of one track nest or stand apart', () => {
  const slices = perfettoOf(recorded()).filter(({ ph }) => ph === 'X');
  expect(slices.length).toBeGreaterThan(5);
  for (const tid of new Set(slices.map((slice) => slice.tid))) {
    const ends: number[] = [];
    const mine = slices.filter((slice) => slice.tid === tid);
    for (const { ts = 0, dur = 0 } of mine.toSorted((a, b) => (a.ts ?? 0) - (b.ts ?? 0))) {
      while (ends.length > 0 && (ends.at(-1) ?? 0) <= ts) ends.pop();
      const around = ends.at(-1);
      if (around !== undefined) expect(ts + dur).toBeLessThanOrEqual(around);
      ends.push(ts + dur);
    }
  }
});

test('machines are processes that share no thread, and keep their distance in time', () => {
  const all = perfettoOf(recorded(), recorded());
  const owners = new Map<number, Set<number>>();
  for (const { pid, tid } of all) owners.set(tid, (owners.get(tid) ?? new Set()).add(pid));
  expect([...owners.values()].every((pids) => pids.size === 1)).toBe(true);
  const names = all.filter(({ name }) => name === 'process_name').map(({ args }) => args?.name);
  expect(names).toEqual(['machine-0 (plain memory)', 'machine-1 (plain memory)']);
  const [early, late] = [1, 2].map((pid) => all.find((one) => one.pid === pid && one.ph === 'i'));
  const distance = (late?.ts ?? 0) - (early?.ts ?? 0);
  // 20 ms, but for the few that making the first events took.
  expect(distance).toBeGreaterThan(10_000);
});

test('a trace of nothing is well-formed too', () => {
  expect(perfettoOf([])).toHaveLength(1);
});
