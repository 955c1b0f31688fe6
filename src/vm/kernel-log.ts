/** What a Linux kernel complains of in its log, by the kernel's own words for it. */

export interface KernelComplaint {
  /** `oops`, `hung task`, `lockdep report`, … */
  readonly kind: string;
  /** The line that says it, without its time. */
  readonly line: string;
  /** That line with what belongs to it: registers, call trace. */
  readonly excerpt: string;
}

/** The first that matches a line names it. */
const kinds: readonly (readonly [kind: string, words: RegExp])[] = [
  ['panic', /Kernel panic - not syncing/],
  ['KASAN report', /BUG: KASAN: /],
  ['KFENCE report', /BUG: KFENCE: /],
  ['KCSAN report', /BUG: KCSAN: /],
  ['KMSAN report', /BUG: KMSAN: /],
  ['UBSAN report', /UBSAN: /],
  ['lockup', /BUG: soft lockup|hard LOCKUP/],
  ['scheduling while atomic', /BUG: scheduling while atomic/],
  ['sleeping while atomic', /BUG: sleeping function called from invalid context/],
  [
    'lockdep report',
    /possible (circular|recursive|irq) lock|inconsistent lock state|suspicious RCU usage|HARDIRQ-.*lock order|bad unlock balance|(freed|returning to user space) with.*locks? (still )?held|held lock freed|still has locks held|Invalid wait context|BUG: MAX_LOCK/,
  ],
  ['oops', /BUG: unable to handle|BUG: kernel NULL pointer|kernel BUG at |\bOops: /],
  ['general protection fault', /general protection fault/],
  ['hung task', /task .+ blocked for more than \d+ seconds/],
  ['RCU stall', /rcu: INFO: .*stall|rcu_\w+ kthread .*starved/],
  ['list corruption', /list_(add|del) corruption/],
  // It also says that it is there, and after a report where the memory was mapped.
  ['DMA API misuse', /DMA-API: (?!preallocated |debugging |dma_debug_entry pool |Mapped at:)/],
  ['interrupt that nobody cared for', /irq \d+: nobody cared/],
  ['memory leak', /kmemleak: \d+ new suspected memory leak/],
  ['bug', /\bBUG: /],
  ['warning', /\bWARNING: /],
  ['call trace', /^Call Trace:/],
];

const time = /^\[ *\d+\.\d+\](\[ *[CT]\d+\])? /;
const cut = /-+\[ cut here \]-+/;
const excerptLinesMax = 80;
/** So many lines may stand between what is said and its call trace. */
const traceWithin = 30;
const wordsWithin = 12;
const last = /---\[ end (trace|Kernel panic)|<\/TASK>/;

/** In the order of the log; what belongs to one is not told again as another. */
export function kernelComplaints(log: string): KernelComplaint[] {
  const lines = log.split('\n');
  const found: KernelComplaint[] = [];
  let told = 0;
  for (let at = 0; at < lines.length; at++) {
    const line = withoutTime(lines[at] ?? '');
    const kind = kinds.find(([, words]) => words.test(line))?.[0];
    if (kind === undefined) continue;
    const end = excerptEnd(lines, at);
    const start = excerptStart(lines, at, told);
    told = end;
    found.push({ kind, line, excerpt: lines.slice(start, end).join('\n') });
    at = end - 1;
  }
  return found;
}

/** A line of the console, as of `dmesg`, without the time in front. */
export function withoutTime(line: string): string {
  return line.replace(/\r$/, '').replace(time, '');
}

/** A warning's own words stand before it, behind a line that says to cut there. */
function excerptStart(lines: readonly string[], at: number, least: number): number {
  for (let start = at - 1; start >= Math.max(least, at - wordsWithin); start--) {
    if (cut.test(lines[start] ?? '')) return start;
  }
  return at;
}

/** Behind the last line that belongs to the complaint: of its call trace, where it has one. */
function excerptEnd(lines: readonly string[], start: number): number {
  const most = Math.min(lines.length, start + excerptLinesMax);
  let inTrace = false;
  for (let at = start; at < most; at++) {
    const line = lines[at] ?? '';
    if (last.test(line)) return withTraceEnd(lines, at, most);
    if (at > start && cut.test(line)) return at;
    inTrace ||= /Call Trace:/.test(line);
    if (!inTrace && at - start >= traceWithin) return start + 1;
  }
  return inTrace ? most : start + 1;
}

/** An oops goes on behind its call trace: with the modules, and with registers again. */
function withTraceEnd(lines: readonly string[], at: number, most: number): number {
  if (!/<\/TASK>/.test(lines[at] ?? '')) return at + 1;
  for (let next = at + 1; next < Math.min(most, at + traceWithin); next++) {
    if (/---\[ end (trace|Kernel panic)/.test(lines[next] ?? '')) return next + 1;
    if (cut.test(lines[next] ?? '')) break;
  }
  return at + 1;
}
