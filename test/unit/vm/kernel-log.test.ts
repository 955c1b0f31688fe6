/** Logs of a Debian 6.12 that was made to complain, and words of the kernel's own sources and documents. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { kernelComplaints } from '../../../src/vm/kernel-log.ts';

const vector = (name: string) =>
  readFileSync(new URL(`../../vectors/kernel-log/${name}.txt`, import.meta.url), 'utf8');
const kinds = (log: string) => kernelComplaints(log).map(({ kind }) => kind);

describe('a log of a real guest', () => {
  it('of a boot has no complaint', () => {
    expect(kernelComplaints(vector('boot'))).toEqual([]);
  });

  it.each([
    ['oops', ['oops']],
    ['protection', ['oops']],
    ['warning', ['warning']],
    ['hung-task', ['hung task']],
    ['panic', ['panic']],
    ['atomic', ['scheduling while atomic', 'warning']],
  ])('%s: has each complaint once', (name, expected) => {
    expect(kinds(vector('boot') + vector(name))).toEqual(expected);
  });

  it('has a warning with its words, from the line that says to cut there to the end of its trace', () => {
    const [{ line = '', excerpt = '' } = {}] = kernelComplaints(vector('boot') + vector('warning'));
    expect(line).toMatch(/^WARNING: CPU: \d+ PID: \d+ at trouble\.c:\d+ trouble_init/);
    const lines = excerpt.split('\n');
    expect(lines[0]).toContain('[ cut here ]');
    expect(lines[1]).toContain('trouble was asked for');
    expect(lines.at(-1)).toContain('[ end trace');
  });

  it('has an oops with its registers and its whole trace', () => {
    const [{ line = '', excerpt = '' } = {}] = kernelComplaints(vector('oops'));
    expect(line).toBe('BUG: kernel NULL pointer dereference, address: 0000000000000008');
    expect(excerpt).toContain('RIP: 0010:trouble_init');
    expect(excerpt).toContain('do_one_initcall');
    expect(excerpt.split('\n').at(-1)).toContain('[ end trace');
  });
});

/** As the kernel prints them: lib, kernel/locking/lockdep.c, mm/kasan/report.c, kernel/rcu/tree_stall.h. */
const words: readonly (readonly [kind: string, line: string])[] = [
  ['KASAN report', 'BUG: KASAN: slab-out-of-bounds in kmalloc_oob_right+0xa8/0xbc [test_kasan]'],
  ['KFENCE report', 'BUG: KFENCE: use-after-free read in test_use_after_free_read+0xb3/0x143'],
  ['lockdep report', 'WARNING: possible circular locking dependency detected'],
  ['lockdep report', 'WARNING: possible recursive locking detected'],
  ['lockdep report', 'WARNING: inconsistent lock state'],
  ['lockdep report', 'WARNING: suspicious RCU usage'],
  ['lockdep report', 'WARNING: bad unlock balance detected!'],
  ['lockdep report', 'WARNING: held lock freed!'],
  ['sleeping while atomic', 'BUG: sleeping function called from invalid context at mm/slub.c:500'],
  ['UBSAN report', 'UBSAN: shift-out-of-bounds in drivers/x.c:12:3'],
  ['lockup', 'watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [insmod:131]'],
  ['RCU stall', 'rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:'],
  ['RCU stall', 'rcu: INFO: rcu_preempt self-detected stall on CPU'],
  ['list corruption', 'list_add corruption. prev->next should be next (0), but was 1.'],
  [
    'interrupt that nobody cared for',
    'irq 16: nobody cared (try booting with the "irqpoll" option)',
  ],
  ['memory leak', 'kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)'],
  ['DMA API misuse', 'DMA-API: edu 0000:00:04.0: device driver tries to free DMA memory'],
  ['hung task', 'INFO: task kworker/u4:1:32 blocked for more than 120 seconds.'],
  ['panic', 'Kernel panic - not syncing: Fatal exception'],
  ['bug', 'BUG: Bad page state in process insmod  pfn:01234'],
];

it.each(words)('is a %s: %s', (kind, line) => {
  expect(kernelComplaints(`[    1.000000] ${line}\n`)).toMatchObject([{ kind, line }]);
  expect(kinds(`[    1.000000][  T131] ${line}\r\n`)).toEqual([kind]);
});

it.each([
  'adder 0000:00:04.0: a warning: the cable is loose',
  'Warning: unable to open an initial console.',
  'debug: BUGGY firmware',
  'tsc: Unable to calibrate against PIT',
  'DMA-API: preallocated 65536 debug entries',
  'DMA-API: debugging enabled by kernel config',
  'DMA-API: dma_debug_entry pool grown to 131072 (200%)',
  'DMA-API: Mapped at:',
])('is nothing: %s', (line) => {
  expect(kernelComplaints(`[    1.000000] ${line}\n`)).toEqual([]);
});

it('tells each complaint once, in its order, whatever stands between', () => {
  const logs = ['warning', 'oops', 'hung-task', 'atomic'];
  const quiet = fc.stringMatching(/^[a-z ]{0,30}$/);
  fc.assert(
    fc.property(fc.array(fc.tuple(quiet, fc.constantFrom(...logs)), { maxLength: 6 }), (parts) => {
      const log = parts.map(([text, name]) => `[    9.000000] ${text}\n${vector(name)}`).join('');
      expect(kinds(log)).toEqual(parts.flatMap(([, name]) => kinds(vector(name))));
    }),
  );
});
