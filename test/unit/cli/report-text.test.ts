import { expect, test } from 'vitest';
import { reportText } from '../../../src/cli/report-text.ts';
import { MadeTrace, RID } from '../trace/report/made-trace.ts';

/** The lines of the one function, as label and words. */
function lines(made: MadeTrace): string[] {
  const text = reportText(made.report);
  expect(text).not.toMatch(/undefined|NaN|\[object/);
  return text.trimEnd().split('\n').slice(3);
}

test('a function of which there is nothing to say has its registers and no more', () => {
  expect(reportText(new MadeTrace().report)).toBe(
    '1 event in 1 µs, sealed memory\n\n00:05.0 Engine\n' +
      '  registers       0 of 5 touched, 0 reads, 0 writes\n' +
      '                  never touched: command, address, status, ring, spare\n',
  );
});

test('each finding is a line that says what, how often and when', () => {
  const made = new MadeTrace().write('status', 1).write('command', 1).dma({ bytes: 4096 });
  for (let n = 0; n < 1200; n++) made.read('status', 1);
  made.interrupt(2).add({
    ...{ kind: 'fault', rid: RID, direction: 'write', iova: '0xdead000', bytes: 1 },
    reason: 'unmapped',
  });
  made.write('command', 0x77).wait(20).write('command', 2).dma().reset();
  made.dma({ iova: 0x40, write: true, bytes: 64 });
  made.add({
    ...{ kind: 'unmodelled', rid: RID, bar: 0, offset: 0x80, width: 2, direction: 'read' },
    why: 'no register is there',
  });
  expect(lines(made).map((line) => line.trim())).toEqual([
    'registers       2 of 5 touched, 1,200 reads, 4 writes',
    'never touched: address, ring, spare',
    'written though read-only: status (1)',
    'not modelled    read of 2 bytes at BAR0+0x80: no register is there',
    'spinning        status: 1,200 reads of 0x1 in 1.2 ms, at 0.000005 s',
    'idle doorbells  command: 1 of 3 writes led to nothing, the first at 0.001207 s with 0x77',
    'DMA             2 reads of 4,100 bytes, 1 write of 64 bytes',
    'DMA after reset write of 64 bytes at 0x40, 1 µs after a function-level reset, before the driver came back, at 0.021211 s',
    'refused DMA     write, unmapped; first 1 byte at 0xdead000, at 0.001206 s',
    'interrupts      vector 2: 1',
    'resets          function-level: 1',
  ]);
});

test('a function that did nothing, whatever was written, is named', () => {
  expect(lines(new MadeTrace().write('command', 1)).join('\n')).toContain(
    'DMA             none, and no interrupt, whatever was written',
  );
});

test('long lists are cut, and say by how much', () => {
  const made = new MadeTrace();
  for (let n = 0; n < 9; n++) {
    made.add({
      ...{ kind: 'unmodelled', rid: RID, bar: 0, offset: n * 4, width: 4, direction: 'read' },
      why: 'none',
    });
  }
  const text = reportText(made.report);
  expect(text.match(/^.*of 4 bytes at BAR0/gm)).toHaveLength(5);
  expect(text).toContain('and 4 more\n');
});
