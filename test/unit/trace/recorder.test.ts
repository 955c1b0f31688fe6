/** What a trace says of a function on the bench: each thing once, in order, by the device's own names. */
import { expect, test } from 'vitest';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { Trace, type TraceEvent, type TraceOptions } from '../../../src/trace/index.ts';
import { MemoryFunction } from '../../protocol/vfio-user/memory-function.ts';
import { Bench } from '../pci/bench.ts';
import { TracedDevice } from './traced-device.ts';

const RID = parseRequesterId('00:05.0');

function setUp(options: TraceOptions = {}) {
  const trace = new Trace(options);
  const device = new TracedDevice();
  const bench = new Bench(trace.around(device, RID));
  /** Events but the first, which tells of the function. */
  const events = () => trace.events.slice(1);
  return { trace, device, bench, events };
}

function only<K extends TraceEvent['kind']>(events: readonly TraceEvent[], kind: K) {
  return events.filter((event): event is Extract<TraceEvent, { kind: K }> => event.kind === kind);
}

test('the first event says who the function is and what its registers are called', () => {
  const { trace } = setUp();
  expect(trace.events[0]).toMatchObject({
    kind: 'function',
    rid: '00:05.0',
    name: 'TracedDevice',
    identity: { vendor: 0x1b36, device: 0x5eb2, classCode: 0xff0000 },
    interrupts: { intx: 1, msi: 0, msix: 4 },
  });
  const [bar0] = only(trace.events, 'function')[0]?.bars ?? [];
  expect(bar0).toMatchObject({ bar: 0, size: 4096 });
  const named = Object.fromEntries(bar0?.registers.map((one) => [one.name, one]) ?? []);
  expect(named.control).toMatchObject({
    ...{ offset: 0, width: 4, count: 1, access: 'read-write' },
    fields: { go: { low: 0, bits: 1 }, mode: { low: 1, bits: 3 }, last: { low: 31, bits: 1 } },
  });
  expect(named.status).toMatchObject({ offset: 4, width: 4, access: 'read-only', fields: {} });
  expect(named.raise).toMatchObject({ offset: 0x18, access: 'write-only' });
  expect(named.list).toMatchObject({ offset: 0x20, width: 2, count: 4, stride: 8 });
  expect(named.window).toMatchObject({ offset: 0x100, width: 64, count: 1, access: 'memory' });
});

test('a function that says nothing of its registers is traced by place', () => {
  const trace = new Trace();
  const bench = new Bench(trace.around(new MemoryFunction(), RID));
  bench.write(0x20, 7);
  const [about, access] = trace.events;
  expect(about).toMatchObject({ kind: 'function', name: 'MemoryFunction' });
  expect(only(trace.events, 'function')[0]?.bars.map(({ registers }) => registers)).toEqual([
    ...[[], [], []],
  ]);
  expect(access).toMatchObject({ kind: 'register', offset: 0x20, value: '0x7' });
  expect(access).not.toHaveProperty('register');
});

test('accesses have their register, its fields and their value, however wide they are', () => {
  const { bench, events } = setUp();
  bench.write(0x00, 0x8000_000d);
  bench.read(0x04);
  bench.write(0x08, 0xf23_4567_89ab_cdefn, 8);
  bench.readWide(0x08, 4);
  bench.readWide(0x0c, 4);
  bench.write(0x30, 0xbeef, 2);
  bench.write(0x110, 0x5a, 1);
  const register = { kind: 'register', rid: '00:05.0', bar: 0 };
  const seen = events();
  expect(seen).toMatchObject([
    {
      ...{ ...register, direction: 'write', offset: 0, width: 4, value: '0x8000000d' },
      ...{ register: 'control', fields: { go: 1, mode: 6, last: 1 } },
    },
    { ...register, direction: 'read', offset: 4, value: '0x80000001', register: 'status' },
    {
      ...{ ...register, direction: 'write', width: 8, value: '0xf23456789abcdef' },
      ...{ register: 'wide', fields: { low: 0xf, across: 0x78, top: 0x791a2b } },
    },
    // A half has the fields that lie whole in it, and no more.
    { ...register, direction: 'read', width: 4, register: 'wide', fields: { low: 0xf } },
    { ...register, direction: 'read', offset: 12, register: 'wide', fields: { top: 0x791a2b } },
    { ...register, offset: 0x30, width: 2, value: '0xbeef', register: 'list[2]' },
    { ...register, offset: 0x110, width: 1, value: '0x5a', register: 'window+0x10' },
  ]);
  expect(seen[3]).not.toHaveProperty('fields.across');
  expect(seen[1]).not.toHaveProperty('fields');
});

test('an access of more than 8 bytes has its bytes', () => {
  const { trace } = setUp();
  const endpoint = trace.around(new MemoryFunction(), parseRequesterId('00:06.0'));
  const bytes = Uint8Array.from({ length: 20 }, (_, i) => i + 0xf0);
  endpoint.writeBar(0, 0x100, bytes);
  bytes.fill(0);
  endpoint.readBar(0, 0x100, bytes);
  const value = 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff00010203';
  expect(only(trace.events, 'register')).toMatchObject([
    { direction: 'write', width: 20, value },
    { direction: 'read', width: 20, value },
  ]);
});

test('what an access sets off comes after it, also where a read has its value last of all', () => {
  const { bench, trace, events } = setUp();
  bench.write(0x18, 2);
  bench.read(0x200);
  expect(events().map(({ kind }) => kind)).toEqual([
    ...['register', 'interrupt-mode', 'interrupt'],
    ...['register', 'unmodelled'],
  ]);
  const times = trace.events.map(({ t }) => t);
  expect(times).toEqual(times.toSorted((a, b) => a - b));
  expect(times.every((t) => Number.isSafeInteger(t) && t >= 0)).toBe(true);
});

test('an event is not told before it is over', () => {
  const trace = new Trace();
  const inner = new MemoryFunction();
  const bench = new Bench(trace.around(inner, RID));
  const during: number[] = [];
  inner.memory.fill(7);
  inner.onAccess = () => {
    during.push(trace.events.length);
  };
  bench.read(4);
  expect(during).toEqual([1]);
  expect(trace.events[1]).toMatchObject({ kind: 'register', value: '0x7070707' });
});

test('an unmodelled access is told with why, and goes on to the transport', () => {
  const { bench, events } = setUp();
  bench.read(0x200);
  bench.write(0x204, 1, 2);
  const why = expect.stringContaining('no register');
  expect(only(events(), 'unmodelled')).toMatchObject([
    { rid: '00:05.0', bar: 0, offset: 0x200, width: 4, direction: 'read', why },
    { offset: 0x204, width: 2, direction: 'write', why },
  ]);
  expect(bench.accesses).toHaveLength(2);
});

test('messages are told where the guest has enabled them, with what it had chosen', () => {
  const { bench, events } = setUp();
  bench.write(0x18, 3);
  bench.interrupts.mode = 'none';
  bench.write(0x18, 1);
  bench.interrupts.mode = 'msi';
  bench.write(0x18, 0);
  expect(events().filter(({ kind }) => kind.startsWith('interrupt'))).toMatchObject([
    { kind: 'interrupt-mode', mode: 'msi-x' },
    { kind: 'interrupt', how: 'msi-x', vector: 3 },
    { kind: 'interrupt-mode', mode: 'none' },
    // The pin, which such a guest does not see: the function drives it all the same.
    { kind: 'interrupt', how: 'intx', asserted: true },
    { kind: 'interrupt-mode', mode: 'msi' },
    { kind: 'interrupt', how: 'msi', vector: 0 },
  ]);
});

test('of the pin, changes of its level are told', () => {
  const { bench, events } = setUp();
  bench.interrupts.mode = 'intx';
  for (const offset of [0x18, 0x18, 0x1c, 0x1c, 0x18]) bench.write(offset, 0);
  expect(only(events(), 'interrupt').map(({ how, asserted }) => [how, asserted])).toEqual([
    ['intx', true],
    ['intx', false],
    ['intx', true],
  ]);
  expect(bench.interrupts.level).toBe(true);
});

test('a device that throws is told of, and reads all ones until its reset', () => {
  const { bench, events, device } = setUp();
  bench.write(0x40, 1);
  bench.read(0x04);
  device.reset('device');
  expect(events()).toMatchObject([
    { kind: 'register', register: 'throws' },
    { kind: 'device-error', rid: '00:05.0', message: 'thrown by the device' },
    { kind: 'register', register: 'status', value: '0xffffffff' },
  ]);
  expect(bench.faults).toHaveLength(1);
});

test('an endpoint that throws by itself has answered with all ones', () => {
  const trace = new Trace();
  const inner = new MemoryFunction();
  const bench = new Bench(trace.around(inner, RID));
  inner.onAccess = () => {
    throw new Error('no answer');
  };
  expect(() => bench.read(0)).toThrow('no answer');
  expect(trace.events[1]).toMatchObject({ kind: 'register', value: '0xffffffff' });
});

test('resets are told with their cause, before what they do', () => {
  const trace = new Trace();
  const endpoint = trace.around(new TracedDevice(), RID);
  const bench = new Bench(endpoint);
  bench.interrupts.mode = 'intx';
  bench.write(0x18, 0);
  endpoint.reset('function-level');
  expect(trace.events.slice(-2)).toMatchObject([
    { kind: 'reset', rid: '00:05.0', cause: 'function-level' },
    { kind: 'interrupt', asserted: false },
  ]);
  expect(bench.read(0x00)).toBe(0);
});

test('events beyond the limit are counted and not kept, and the device does not mind', () => {
  const { trace, bench } = setUp({ eventsMax: 3 });
  for (let n = 0; n < 10; n++) bench.write(0x00, n);
  expect(bench.read(0x00)).toBe(9);
  expect(trace.events).toHaveLength(3);
  expect(trace.events.at(-1)).toMatchObject({ value: '0x1' });
  expect(trace.dropped).toBe(9);
});

test('what others record is in its place, and nothing is after the end', () => {
  const { trace, bench } = setUp();
  bench.write(0x00, 1);
  trace.injected(RID, 'interrupt.lose', 'vector 0');
  trace.end();
  bench.write(0x00, 2);
  expect(trace.events.slice(1)).toMatchObject([
    { kind: 'register', value: '0x1' },
    { kind: 'injected', rid: '00:05.0', fault: 'interrupt.lose', detail: 'vector 0' },
  ]);
});

test.each([
  [{ dataBytesMax: -1 }, /dataBytesMax.*got -1/],
  [{ dataBytesMax: 1.5 }, /dataBytesMax.*got 1.5/],
  [{ eventsMax: Number.NaN }, /eventsMax.*got NaN/],
])('options that make no sense are refused: %o', (options, words) => {
  expect(() => new Trace(options)).toThrow(words);
});
