/** What a trace file says comes back as it was; what is wrong in one is named by its line. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { openTrace, readTrace, type TraceEvent } from '../../../src/trace/index.ts';
import { readTraceEnd } from '../../../src/trace/trace-tail.ts';
import { anyEvent } from './any-event.ts';

const scratch = mkdtempSync(join(tmpdir(), 'sealbus-trace-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const path = join(scratch, 'trace.ndjson');

const HEADER = { kind: 'trace', version: 1, epochMs: 1e12, memory: 'sealed', dataBytesMax: null };
const RESET = { t: 1, kind: 'reset', rid: '00:05.0', cause: 'device' };
const end = (events: number) => ({ t: 9, kind: 'end', events, dropped: 0 });

/** One line each. */
function file(...lines: readonly (object | string)[]): string {
  const words = lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line)));
  writeFileSync(path, words.map((line) => `${line}\n`).join(''));
  return path;
}

test('any events are read as they were written', () => {
  fc.assert(
    fc.property(fc.array(anyEvent), (events) => {
      const read = readTrace(file(HEADER, ...events, end(events.length)));
      expect(read).toEqual({ header: HEADER, events, end: end(events.length), cut: false });
      expect(readTraceEnd(path)).toEqual(end(events.length));
    }),
  );
});

test('cut at any byte, a trace is read as far as whole lines go, and says so', () => {
  fc.assert(
    fc.property(fc.array(anyEvent, { minLength: 1 }), fc.nat(), (events, at) => {
      const lines = [HEADER, ...events, end(events.length)].map((line) => JSON.stringify(line));
      const whole = Buffer.from(lines.map((line) => `${line}\n`).join(''));
      const start = Buffer.byteLength(`${lines[0]}\n`);
      const length = start + (at % (whole.length - start));
      writeFileSync(path, whole.subarray(0, length));
      const read = readTrace(path);
      // Without its newline alone, a last line is whole.
      const isWhole = length === whole.length - 1;
      expect(read.cut).toBe(!isWhole);
      expect(read.events).toEqual(events.slice(0, read.events.length));
      const next = lines.slice(0, read.events.length + 2).join('\n');
      if (!isWhole) expect(Buffer.byteLength(next)).toBeGreaterThan(length);
      if (!isWhole) expect(readTraceEnd(path)).toBeUndefined();
    }),
  );
});

test('fields and header fields that are not known are let through', () => {
  const more = { ...RESET, severity: 'high', nested: { a: [1] } };
  const read = readTrace(file({ ...HEADER, host: 'x' }, more, { ...end(1), why: 'done' }));
  expect(read.events).toEqual([more]);
});

describe('named by its line', () => {
  test.each<[string, readonly (object | string)[], RegExp]>([
    ['no JSON', [HEADER, RESET, 'not json', end(1)], /:3: expected a line of JSON, got: .*/],
    ['half a line in the middle', [HEADER, '{"t":1,"kind":', RESET], /:2: expected a line of JSON/],
    ['an empty line', [HEADER, '', RESET], /:2: expected a line of JSON/],
    ['an unknown kind', [HEADER, { t: 1, kind: 'telepathy' }], /:2: .*known kinds.*telepathy/],
    ['a kind that objects have', [HEADER, { t: 1, kind: 'constructor' }], /:2: .*known kinds/],
    ['no object', [HEADER, '[1,2]'], /:2: .*known kinds, got \[1,2\]/],
    [
      'a missing field',
      [HEADER, { ...RESET, cause: undefined }],
      /:2: expected 'cause' to be one of/,
    ],
    ['a field of another type', [HEADER, { ...RESET, t: '1' }], /:2: expected 't' to be a whole/],
    [
      'a time before the beginning',
      [HEADER, { ...RESET, t: -1 }],
      /:2: expected 't' to be a whole/,
    ],
    ['a place that is none', [HEADER, { ...RESET, rid: '5.0' }], /:2: expected 'rid' to be a requ/],
    ['a second header', [HEADER, HEADER], /:2: expected one header, got another/],
    [
      'events after the end',
      [HEADER, end(0), RESET],
      /:3: expected nothing after the end line, got 'r/,
    ],
    ['missing events', [HEADER, RESET, end(2)], /:3: expected 2 events before it.*got 1.*missing/],
    ['no header', [RESET], /:1: expected the header of a trace, got reset/],
    ['nothing', [], /:1: expected the header of a trace, got nothing/],
    ['another file', ['<html>'], /:1: expected a line of JSON/],
    ['a later version', [{ ...HEADER, version: 2 }], /:1: expected a trace of version 1, got 2/],
  ])('%s', (_what, lines, words) => {
    expect(() => readTrace(file(...lines))).toThrow(words);
  });

  test('a field deep in an event', () => {
    const dma = { t: 1, kind: 'dma', rid: '00:05.0', direction: 'read', iova: '0x0', bytes: 1 };
    const pieces = [{ gpa: '12', bytes: 1, slot: 1, private: true }];
    expect(() => readTrace(file(HEADER, { ...dma, pieces }))).toThrow(
      /:2: expected 'pieces.gpa' to be up to 64 bits/,
    );
  });
});

test('half a header is no trace', () => {
  writeFileSync(path, JSON.stringify(HEADER).slice(0, 30));
  expect(() => readTrace(path)).toThrow(/:1: expected a line of JSON/);
});

test('a file that is not there is named', () => {
  expect(() => readTrace(join(scratch, 'none'))).toThrow(/expected a file to read, got .*none/);
});

test('lines longer than a chunk of the reader come whole', () => {
  const injected = { t: 1, kind: 'injected', rid: '00:05.0', fault: 'x' };
  const events = [
    { ...injected, detail: 'é'.repeat(300_000) },
    { ...injected, detail: 'z' },
  ] as TraceEvent[];
  expect(readTrace(file(HEADER, ...events, end(2))).events).toEqual(events);
});

test('a trace may be gone through twice, one event at a time', () => {
  const opened = openTrace(file(HEADER, RESET, end(1)));
  expect(opened.end).toBeUndefined();
  expect([...opened.events()]).toEqual([...opened.events()]);
  expect(opened.end).toEqual(end(1));
});
