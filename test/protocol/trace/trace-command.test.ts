/** `sealbus trace` around programs, `report` and `perfetto` of what they leave: machines without a guest. */
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { readTrace, type TraceEvent } from '../../../src/trace/index.ts';
import { RunPlace, repository } from '../cli/sealbus.ts';

const program = join(import.meta.dirname, 'traced-program.ts');
const place = new RunPlace();
const scratch = mkdtempSync(join(tmpdir(), 'sealbus-traces-'));
afterEach(() => {
  // A process that was killed leaves its run directory to the next one.
  expect(place.processes).toEqual([]);
});
afterAll(() => {
  place[Symbol.dispose]();
  rmSync(scratch, { recursive: true });
});

const node = (...args: string[]) => [process.execPath, program, ...args];
const file = (name: string) => join(scratch, name);
const kinds = (events: readonly TraceEvent[]) => new Set(events.map(({ kind }) => kind));

/** The trace of one machine, which the tests below read. */
const output = file('one.ndjson');
let recorded: Awaited<ReturnType<RunPlace['run']>>;
beforeAll(async () => {
  const flags = ['-o', output, '--perfetto', file('one.json'), '--data', '2'];
  recorded = await place.run(['trace', ...flags, '--', ...node('1')]);
});

describe('sealbus trace', () => {
  test('records any program’s machine and gives its output and exit code back', () => {
    expect(recorded.stderr).toMatch(/^sealbus: traced .*one.ndjson, \d+ events$/m);
    expect([recorded.code, `${recorded.stdout}`]).toEqual([0, '6\n']);
    const { events, header, cut, end } = readTrace(output);
    expect(cut).toBe(false);
    expect(end?.events).toBe(events.length);
    expect(header).toMatchObject({ memory: 'plain', dataBytesMax: 2 });
    expect(events[0]).toMatchObject({ kind: 'function', name: 'Adder', rid: '00:05.0' });
    const dma = events.filter(({ kind }) => kind === 'dma');
    expect(dma).toMatchObject([{ rid: '00:05.0', direction: 'read', bytes: 3, data: '0102' }]);
    expect(kinds(events)).toContain('interrupt');
    // What it sets off comes after it.
    const go = events.findIndex((event) => 'register' in event && event.register === 'control');
    expect(go).toBeGreaterThan(0);
    expect(go).toBeLessThan(events.findIndex(({ kind }) => kind === 'dma'));
    expect(events[go]).toMatchObject({ fields: { go: 1 } });
  });

  test('leaves nothing but the files that it was asked for', () => {
    expect(readdirSync(scratch).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  test('puts each machine into a file of its own, and all of them into one for Perfetto', async () => {
    const to = file('two.ndjson');
    const flags = ['-o', to, '--perfetto', file('two.json')];
    const { code, stderr } = await place.run(['trace', ...flags, '--', ...node('2')]);
    expect(code, stderr).toBe(0);
    const traces = [to, file('two-2.ndjson')].map((path) => readTrace(path));
    expect(traces.map(({ cut }) => cut)).toEqual([false, false]);
    expect(traces[0]?.header.epochMs).toBeLessThanOrEqual(traces[1]?.header.epochMs ?? 0);
    const { traceEvents } = JSON.parse(readFileSync(file('two.json'), 'utf8'));
    expect(new Set(traceEvents.map(({ pid }: { pid: number }) => pid))).toEqual(new Set([1, 2]));
  });

  test('a program that exits with its machine running leaves a whole trace', async () => {
    const to = file('exit.ndjson');
    const { code } = await place.run(['trace', '-o', to, '--', ...node('1', 'exit', '7')]);
    expect(code).toBe(7);
    expect(readTrace(to)).toMatchObject({ cut: false });
  });

  test('one that is killed leaves what there was, and that it was cut is said', async () => {
    const to = file('kill.ndjson');
    const { code, stderr } = await place.run(['trace', '-o', to, '--', ...node('1', 'kill')]);
    expect(code).toBe(128 + 9);
    expect(stderr).toMatch(/kill.ndjson, cut short/);
    const { cut, events } = readTrace(to);
    expect(cut).toBe(true);
    expect(kinds(events)).toContain('interrupt');
  });

  test('a signal goes to the program, and the trace is there all the same', async () => {
    const to = file('signal.ndjson');
    const running = place.start(['trace', '-o', to, '--', ...node('1', 'wait')]);
    await running.said(/^waiting$/m);
    running.child.kill('SIGTERM');
    const { code } = await running.ended;
    expect(code).toBe(128 + 15);
    expect(kinds(readTrace(to).events)).toContain('function');
  });

  test('--events has a bound, and what found no room is said', async () => {
    const to = file('few.ndjson');
    const flags = ['-o', to, '--events', '3'];
    const { code, stderr } = await place.run(['trace', ...flags, '--', ...node('1')]);
    expect(code).toBe(0);
    expect(stderr).toMatch(/few.ndjson, 3 events, and \d+ more that found no room/);
  });

  test('a first word that is a command of sealbus is that one', async () => {
    const help = await place.run(['trace', '-o', file('x.ndjson'), '--', 'doctor', '--help']);
    expect(`${help.stdout}`).toMatch(/Usage: sealbus doctor/);
    expect(help.code).toBe(1);
    expect(help.stderr).toContain('no machine was traced');
  });

  test.each<[string, readonly string[], number, RegExp]>([
    ['a command that makes no machine', ['--', 'true'], 1, /no machine was traced/],
    [
      'one that fails before it makes one',
      ['--', 'sh', '-c', 'exit 9'],
      9,
      /no machine was traced/,
    ],
    ['no such program', ['--', 'no-such-program'], 127, /expected a program.*no-such-program/],
    ['no command', [], 1, /missing required argument/],
    ['a place that is not there', ['-o', '/none/t', '--', 'true'], 1, /write a trace to \/none\/t/],
    ['a directory for a file', ['-o', scratch, '--', 'true'], 1, /a file .*got the directory/],
    [
      'bytes that are no number',
      ['--data', '4K', '--', 'true'],
      1,
      /--data.*whole number or 'all'/,
    ],
  ])('%s: an honest exit code', async (_what, words, expected, said) => {
    const flags = words.includes('-o') ? [] : ['-o', file('none.ndjson')];
    const { code, stderr } = await place.run(['trace', ...flags, ...words]);
    expect(code).toBe(expected);
    expect(stderr).toMatch(said);
  });
});

test('the program of docs/traces.md runs, and prints what it says it looks for', async () => {
  const page = readFileSync(join(repository, 'docs/traces.md'), 'utf8');
  const [, source = ''] = /^```ts\n(.*?)^```$/ms.exec(page) ?? [];
  const project = file('project');
  mkdirSync(join(project, 'node_modules'), { recursive: true });
  symlinkSync(repository, join(project, 'node_modules/sealbus'));
  writeFileSync(join(project, 'package.json'), '{"type":"module"}');
  cpSync(join(repository, 'examples/adder/adder.ts'), join(project, 'adder.ts'));
  writeFileSync(join(project, 'program.ts'), source);
  const { code, stdout, stderr } = await place.spawn([
    ...['sh', '-c', 'cd "$1" && exec "$2" program.ts', 'sh', project, process.execPath],
  ]).ended;
  expect(code, stderr).toBe(0);
  expect(`${stdout}`).toMatch(/kind: 'register'.*register: 'sum'/s);
  expect(readTrace(join(project, 'adder.ndjson'))).toMatchObject({ cut: false });
});

test('a machine whose trace cannot be made says why, and leaves nothing', async () => {
  const { code, stderr } = await place.spawn(node('1'), { env: { SEALBUS_TRACE: '/dev/null/x' } })
    .ended;
  expect(code).toBe(1);
  expect(stderr).toContain('expected SEALBUS_TRACE to name a directory');
  // What killed programs had left was cleared away as it began.
  expect(place.directories).toEqual([]);
});

test('SEALBUS_TRACE alone records too, a file a machine', async () => {
  const directory = file('by-environment');
  const { code } = await place.spawn(node('2'), { env: { SEALBUS_TRACE: directory } }).ended;
  expect(code).toBe(0);
  const names = readdirSync(directory);
  expect(names).toHaveLength(2);
  for (const name of names) expect(readTrace(join(directory, name)).cut).toBe(false);
});

describe('sealbus report', () => {
  test('tells of the function by its own registers, and the same as JSON', async () => {
    const { code, stdout, stderr } = await place.run(['report', output]);
    expect([code, stderr]).toEqual([0, '']);
    expect(`${stdout}`).toMatch(/^00:05\.0 Adder\n {2}registers +4 of 4 touched/m);
    expect(`${stdout}`).toMatch(/DMA +1 read of 3 bytes, 0 writes of 0 bytes/);
    const json = JSON.parse(`${(await place.run(['report', '--json', output])).stdout}`);
    expect(json).toMatchObject({
      cut: false,
      functions: [{ rid: '00:05.0', name: 'Adder', dma: { reads: 1, readBytes: 3 } }],
    });
  });

  test('a line that is none is named by its number, and there is no report', async () => {
    const bad = file('bad.ndjson');
    const lines = readFileSync(output, 'utf8').split('\n');
    writeFileSync(bad, [lines[0], lines[1], '{"kind":"register"}', ...lines.slice(2)].join('\n'));
    const { code, stdout, stderr } = await place.run(['report', bad]);
    expect([code, `${stdout}`]).toEqual([1, '']);
    expect(stderr).toMatch(/bad.ndjson:3: expected 't' to be/);
  });

  test('a trace cut short is reported as far as it goes', async () => {
    const half = file('half.ndjson');
    const bytes = readFileSync(output);
    writeFileSync(half, bytes.subarray(0, bytes.length - 100));
    const { code, stdout } = await place.run(['report', half]);
    expect(code).toBe(0);
    expect(`${stdout}`).toContain('The trace was cut short');
  });
});

describe('sealbus perfetto', () => {
  test('writes to stdout what trace --perfetto wrote', async () => {
    const { code, stdout } = await place.run(['perfetto', output]);
    expect(code).toBe(0);
    expect(`${stdout}`).toBe(readFileSync(file('one.json'), 'utf8'));
    const { traceEvents } = JSON.parse(`${stdout}`);
    const tracks = traceEvents.filter(({ name }: { name: string }) => name === 'thread_name');
    expect(tracks).toMatchObject([{ args: { name: '00:05.0 Adder' } }]);
  });

  test('a reader that has gone is no error', async () => {
    const long = file('long.ndjson');
    const lines = readFileSync(output, 'utf8').split('\n');
    const access = lines.find((line) => line.includes('"kind":"register"')) ?? '';
    writeFileSync(long, `${[lines[0], ...Array(50_000).fill(access)].join('\n')}\n`);
    const { code, stdout, stderr } = await place.spawn([
      ...['sh', '-c', '"$@" | head -n 1; exit "$?"', 'sh', process.execPath],
      ...[join(repository, 'src/cli/main.ts'), 'perfetto', long],
    ]).ended;
    expect([code, `${stdout}`, stderr]).toEqual([0, '{"traceEvents":[\n', '']);
  });
});
