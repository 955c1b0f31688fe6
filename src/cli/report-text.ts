import type { Doorbell } from '../trace/report/doorbells.ts';
import type { FunctionReport } from '../trace/report/function-report.ts';
import type { MappedBuffer, MappingReport } from '../trace/report/mappings.ts';
import type { RegisterUse } from '../trace/report/register-use.ts';
import type { TraceReport } from '../trace/report/report.ts';

/** So many of a kind are written out; --json has more. */
const LINES_MAX = 5;
const LABEL_WIDTH = 16;

type Section = readonly [label: string, lines: readonly string[]];

/** A report for people: a block a function, a line a finding, and nothing where nothing was found. */
export function reportText(report: TraceReport): string {
  const { header, events, dropped, cut, ns, functions, mappings } = report;
  const head = [`${count(events, 'event')} in ${seconds(ns)}, ${header.memory} memory`];
  if (dropped > 0) head.push(`${number(dropped)} more found no room and are not looked at`);
  if (cut) head.push('The trace was cut short: what came after is not known.');
  const blocks = functions.map((one) => block(`${one.rid} ${one.name}`.trim(), sections(one)));
  if (mappings !== undefined) blocks.push(block('IOMMU', mappingSections(mappings)));
  return [`${head.join('\n')}\n`, ...blocks].join('\n');
}

function block(title: string, all: readonly Section[]): string {
  const lines = all.flatMap(([label, words]) => {
    const shown = words.slice(0, LINES_MAX);
    if (words.length > LINES_MAX) shown.push(`and ${number(words.length - LINES_MAX)} more`);
    return shown.map((line, n) => `  ${(n === 0 ? label : '').padEnd(LABEL_WIDTH)}${line}\n`);
  });
  return `${title}\n${lines.join('')}`;
}

function sections(one: FunctionReport): Section[] {
  const { dmaAfterReset, interrupts, deviceErrors } = one;
  return [
    ['registers', registerLines(one.registers)],
    [
      'not modelled',
      one.unmodelled.map(({ direction, width, bar, offset, why, count }) => {
        const where = `BAR${bar}+0x${offset.toString(16)}`;
        return `${direction} of ${bytes(width)} at ${where}${times(count)}: ${why}`;
      }),
    ],
    [
      'spinning',
      one.spins.map(({ register, times: spins, reads, longest }) => {
        const all =
          spins === 1 ? '' : `${number(reads)} reads in ${number(spins)} spins, the longest `;
        const what = `${number(longest.reads)} reads of ${longest.value} in ${seconds(longest.ns)}`;
        return `${register}: ${all}${what}, ${at(longest.t)}`;
      }),
    ],
    ['idle doorbells', one.doorbellsWithoutWork.map(doorbellLine)],
    ['DMA', dmaLines(one)],
    [
      'DMA after reset',
      dmaAfterReset.examples.map(
        ({ direction, bytes: length, iova, afterNs, cause, refused, t }) =>
          `${direction} of ${bytes(length)} at ${iova}${refused ? ' (refused)' : ''}, ` +
          `${seconds(afterNs)} after a ${cause} reset, before the driver came back, ${at(t)}`,
      ),
    ],
    [
      'refused DMA',
      one.refusedDma.map(
        ({ direction, reason, count: many, first }) =>
          `${direction}, ${reason}${times(many)}; first ${bytes(first.bytes)} at ${first.iova}, ${at(first.t)}`,
      ),
    ],
    ['interrupts', interruptLines(interrupts)],
    ['resets', tally(one.resets)],
    [
      'device errors',
      deviceErrors.first === undefined
        ? []
        : [`${count(deviceErrors.count, 'time')} the device threw, first: ${deviceErrors.first}`],
    ],
    ['injected', tally(one.injected)],
  ];
}

function dmaLines({ dma, interrupts, registers, refusedDma }: FunctionReport): string[] {
  if (dma.reads + dma.writes > 0) {
    return [
      `${count(dma.reads, 'read')} of ${bytes(dma.readBytes)}, ` +
        `${count(dma.writes, 'write')} of ${bytes(dma.writtenBytes)}`,
    ];
  }
  const silent = refusedDma.length === 0 && interruptLines(interrupts).length === 0;
  const written = registers.some(({ writes }) => writes > 0);
  return silent && written ? ['none, and no interrupt, whatever was written'] : [];
}

function registerLines(registers: readonly RegisterUse[]): string[] {
  if (registers.length === 0) return [];
  const touched = registers.filter(({ reads, writes }) => reads + writes > 0);
  const sum = (key: 'reads' | 'writes') => registers.reduce((total, one) => total + one[key], 0);
  const lines = [
    `${touched.length} of ${registers.length} touched, ${count(sum('reads'), 'read')}, ${count(sum('writes'), 'write')}`,
  ];
  const never = registers.filter((one) => !touched.includes(one)).map(({ register }) => register);
  if (never.length > 0) lines.push(`never touched: ${never.join(', ')}`);
  const arrays = touched.flatMap(({ register, elements }) =>
    elements === undefined || elements.touched === elements.of
      ? []
      : [`${register} (${elements.touched} of ${elements.of})`],
  );
  if (arrays.length > 0) lines.push(`touched in part: ${arrays.join(', ')}`);
  const vain = registers
    .filter(({ access, writes }) => access === 'read-only' && writes > 0)
    .map(({ register, writes }) => `${register} (${writes})`);
  if (vain.length > 0) lines.push(`written though read-only: ${vain.join(', ')}`);
  return lines;
}

function doorbellLine({ register, rings, idle, examples }: Doorbell): string {
  const [first] = examples;
  const where = first === undefined ? '' : `, the first ${at(first.t)} with ${first.value}`;
  return `${register}: ${number(idle)} of ${count(rings, 'write')} led to nothing${where}`;
}

function interruptLines({ messages, intx, intxLeftUp }: FunctionReport['interrupts']): string[] {
  const parts = Object.entries(messages).map(
    ([vector, many]) => `vector ${vector}: ${number(many)}`,
  );
  if (intx > 0) parts.push(`INTx: ${number(intx)}${intxLeftUp ? ', left asserted' : ''}`);
  return parts.length === 0 ? [] : [parts.join('; ')];
}

function mappingSections({ maps, unmaps, unused, left, refused }: MappingReport): Section[] {
  const more = unused.count > 1 ? 'the first: ' : '';
  const examples = unused.examples.slice(0, LINES_MAX - 1).map(bufferText);
  return [
    ['mappings', [`${number(maps)} mapped, ${number(unmaps)} unmapped`]],
    [
      'never used',
      unused.count === 0
        ? []
        : [
            `${count(unused.count, 'buffer')} mapped and unmapped without a DMA in between; ${more}${examples[0] ?? ''}`,
            ...examples.slice(1),
          ],
    ],
    [
      'still mapped',
      left.count === 0
        ? []
        : [
            `${count(left.count, 'buffer')} of ${bytes(left.bytes)}, ${number(left.unused)} never used`,
          ],
    ],
    ['refused', tally(refused)],
  ];
}

function bufferText({
  endpoints,
  start,
  bytes: length,
  rights,
  mapped,
  unmapped,
}: MappedBuffer): string {
  const until = unmapped === undefined ? '' : ` for ${seconds(unmapped - mapped)}`;
  const who = endpoints.join(' ') || 'nobody';
  return `${bytes(length)} at ${start} (${rights || 'no rights'}) of ${who}, ${at(mapped)}${until}`;
}

function tally(counts: Readonly<Record<string, number>>): string[] {
  const words = Object.entries(counts).map(([name, many]) => `${name}: ${number(many)}`);
  return words.length === 0 ? [] : [words.join('; ')];
}

function count(many: number, what: string): string {
  return `${number(many)} ${what}${many === 1 ? '' : 's'}`;
}

function bytes(many: number): string {
  return count(many, 'byte');
}

function times(many: number): string {
  return many === 1 ? '' : `, ${number(many)} times`;
}

function number(value: number): string {
  return value.toLocaleString('en-US');
}

function at(ns: number): string {
  return `at ${(ns / 1e9).toFixed(6)} s`;
}

/** A duration, to three digits. */
function seconds(ns: number): string {
  if (ns >= 1e9) return `${Number((ns / 1e9).toPrecision(3))} s`;
  if (ns >= 1e6) return `${Number((ns / 1e6).toPrecision(3))} ms`;
  return `${Number((ns / 1e3).toPrecision(3))} µs`;
}
