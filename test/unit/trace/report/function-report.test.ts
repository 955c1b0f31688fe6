/** What a report says of a function, from traces made by hand: a finding where there is one, and none else. */
import { describe, expect, test } from 'vitest';
import { SPIN_READS } from '../../../../src/trace/report/spins.ts';
import { MadeTrace, RID } from './made-trace.ts';

describe('registers', () => {
  test('each is told with how often it was read and written, those never touched too', () => {
    const { registers } = new MadeTrace()
      .read('status', 1)
      .read('status', 2)
      .write('command', 1).function;
    expect(registers.map(({ register, reads, writes }) => [register, reads, writes])).toEqual([
      ['command', 0, 1],
      ['address', 0, 0],
      ['status', 2, 0],
      ['ring', 0, 0],
      ['spare', 0, 0],
    ]);
  });

  test('functions that were at one place one after the other are told apart', () => {
    const made = new MadeTrace().read('status', 1);
    const { functions } = made.plugged().write('command', 1).write('command', 2).report;
    const counts = functions.map(({ rid, registers }) => [
      rid,
      registers.reduce((sum, { reads }) => sum + reads, 0),
      registers.reduce((sum, { writes }) => sum + writes, 0),
    ]);
    expect(counts).toEqual([
      [RID, 1, 0],
      [RID, 0, 2],
    ]);
  });

  test('an access over two registers touches both', () => {
    const { registers } = new MadeTrace().add({
      ...{ kind: 'register', rid: RID, direction: 'read', bar: 0, offset: 0, width: 8 },
      value: '0x0',
    }).function;
    const touched = registers.filter(({ reads }) => reads > 0).map(({ register }) => register);
    expect(touched).toEqual(['command', 'address']);
  });

  test('accesses that the device does not model are counted by place and width', () => {
    const made = new MadeTrace();
    const access = { kind: 'unmodelled', rid: RID, bar: 0, offset: 0x80, why: 'none' } as const;
    for (let n = 0; n < 3; n++) made.add({ ...access, width: 4, direction: 'read' });
    made.add({ ...access, width: 2, direction: 'read' });
    made.add({ ...access, width: 4, direction: 'write' });
    expect(made.function.unmodelled).toMatchObject([
      { offset: 0x80, width: 4, direction: 'read', why: 'none', count: 3 },
      { width: 2, count: 1 },
      { width: 4, direction: 'write', count: 1 },
    ]);
  });
});

describe('spinning', () => {
  function reads(count: number, value: number, made = new MadeTrace()): MadeTrace {
    for (let n = 0; n < count; n++) made.read('status', value);
    return made;
  }

  test('many reads of one register with one value are, with how many and how long', () => {
    const made = reads(SPIN_READS, 1).read('status', 0);
    expect(made.function.spins).toEqual([
      {
        ...{ register: 'status', times: 1, reads: SPIN_READS },
        longest: { reads: SPIN_READS, ns: (SPIN_READS - 1) * 1000, t: 2000, value: '0x1' },
      },
    ]);
  });

  test('one read less is not, nor are as many with another access or value between', () => {
    expect(reads(SPIN_READS - 1, 1).function.spins).toEqual([]);
    const half = Math.ceil(SPIN_READS / 2);
    expect(reads(half, 1, reads(half, 1).write('ring', 1)).function.spins).toEqual([]);
    expect(reads(half, 2, reads(half, 1)).function.spins).toEqual([]);
    expect(reads(half, 1, reads(half, 1).read('command', 1)).function.spins).toEqual([]);
  });

  test('what the device does meanwhile does not end it; several are put together', () => {
    const made = reads(10, 1).dma().interrupt();
    reads(10, 1, made).read('status', 0);
    reads(16, 1, made);
    expect(made.function.spins).toMatchObject([
      { register: 'status', times: 2, reads: 36, longest: { reads: 20 } },
    ]);
  });
});

describe('doorbells without work', () => {
  /** `command` makes the function do a DMA, three times over. */
  const working = () => {
    const made = new MadeTrace();
    for (let n = 0; n < 3; n++) made.write('command', n).dma().wait(2);
    return made;
  };

  test('a write that led to nothing until the next one is told, with when and what', () => {
    const made = working().write('command', 0x77).wait(20).write('command', 4).dma();
    expect(made.function.doorbellsWithoutWork).toEqual([
      {
        ...{ register: 'command', rings: 5, idle: 1 },
        examples: [{ t: expect.any(Number), value: '0x77' }],
      },
    ]);
  });

  test.each<[string, (made: MadeTrace) => MadeTrace]>([
    ['a DMA', (made) => made.dma()],
    ['an interrupt', (made) => made.interrupt()],
    [
      'a DMA that was refused',
      (made) =>
        made.add({
          ...{ kind: 'fault', rid: RID, direction: 'read', iova: '0x0', bytes: 4 },
          reason: 'unmapped',
        }),
    ],
    ['a register that changed', (made) => made.read('status', 2)],
    ['its own value, changed', (made) => made.read('command', 0)],
  ])('one that led to %s is not', (_what, then) => {
    const made = working().read('status', 1).write('command', 9);
    then(made.wait(5)).wait(20).write('command', 4).dma();
    expect(made.function.doorbellsWithoutWork).toEqual([]);
  });

  test('a register read as it was before is no change', () => {
    const made = working().read('status', 1).write('command', 9).read('status', 1);
    made.wait(20).write('command', 4).dma();
    expect(made.function.doorbellsWithoutWork).toMatchObject([{ register: 'command', idle: 1 }]);
  });

  test('writes right behind each other are served together', () => {
    const made = working().write('command', 5).write('command', 6).write('command', 7).dma();
    expect(made.function.doorbellsWithoutWork).toEqual([]);
  });

  test('a parameter that is written before the doorbell is none', () => {
    const made = new MadeTrace();
    for (let n = 0; n < 5; n++) made.write('address', n).write('command', 1).dma().wait(2);
    // Written twice with nothing between, which for a doorbell would be in vain.
    made.write('address', 8).wait(20).write('address', 9);
    expect(made.function.doorbellsWithoutWork).toEqual([]);
  });

  test('a write-only register is one, though it never led to anything', () => {
    const made = new MadeTrace().write('ring', 1).wait(20).write('ring', 2);
    expect(made.function.doorbellsWithoutWork).toMatchObject([{ register: 'ring', idle: 1 }]);
  });

  test('the last ring counts where the doorbell works and the driver had to wait', () => {
    const last = (ms: number) =>
      working()
        .write('command', 9)
        .wait(ms)
        .add({
          ...{ kind: 'interrupt-mode', rid: RID, mode: 'none' },
        });
    expect(last(20).function.doorbellsWithoutWork).toMatchObject([{ idle: 1, rings: 4 }]);
    expect(last(2).function.doorbellsWithoutWork).toEqual([]);
    const writeOnly = new MadeTrace().write('ring', 1).wait(1000).read('status', 0);
    expect(writeOnly.function.doorbellsWithoutWork).toEqual([]);
  });

  test('a reset that ends the waiting is no answer', () => {
    const made = working().write('command', 9).wait(50).reset().write('command', 1).dma();
    expect(made.function.doorbellsWithoutWork).toMatchObject([{ register: 'command', idle: 1 }]);
  });
});

describe('DMA after a reset', () => {
  test('is told until the driver comes back, done or refused', () => {
    const made = new MadeTrace().write('command', 1).dma().reset();
    made.dma({ iova: 0x1000, bytes: 64, write: true }).add({
      ...{ kind: 'fault', rid: RID, direction: 'read', iova: '0x2000', bytes: 8 },
      reason: 'bus-master-disabled',
    });
    made.read('status', 0).dma();
    const cause = 'function-level';
    expect(made.function.dmaAfterReset).toMatchObject({
      count: 2,
      examples: [
        { afterNs: 1000, cause, direction: 'write', iova: '0x1000', bytes: 64, refused: false },
        { afterNs: 2000, cause, direction: 'read', iova: '0x2000', bytes: 8, refused: true },
      ],
    });
  });

  test('before any reset there is none', () => {
    expect(new MadeTrace().dma().dma().function.dmaAfterReset.count).toBe(0);
  });
});

test('DMA, refusals, interrupts, resets, errors and faults on demand are counted', () => {
  const made = new MadeTrace()
    .dma({ bytes: 100 })
    .dma({ bytes: 20 })
    .dma({ bytes: 3, write: true });
  const fault = { kind: 'fault', rid: RID, direction: 'read', bytes: 8 } as const;
  made.add({ ...fault, iova: '0x10', reason: 'unmapped' });
  made.add({ ...fault, iova: '0x20', reason: 'unmapped' });
  made.add({ ...fault, iova: '0x30', reason: 'no-read-permission' });
  made.interrupt(1).interrupt(1).interrupt(0);
  made.add({ kind: 'interrupt', rid: RID, how: 'intx', asserted: true });
  made.reset('device').reset('device').reset('connection-lost');
  made.add({ kind: 'device-error', rid: RID, message: 'first' });
  made.add({ kind: 'device-error', rid: RID, message: 'second' });
  made.add({ kind: 'injected', rid: RID, fault: 'interrupt.lose', detail: '' });
  expect(made.function).toMatchObject({
    ...{ rid: RID, name: 'Engine' },
    dma: { reads: 2, readBytes: 120, writes: 1, writtenBytes: 3 },
    refusedDma: [
      { reason: 'unmapped', count: 2, first: { iova: '0x10', bytes: 8 } },
      { reason: 'no-read-permission', count: 1, first: { iova: '0x30' } },
    ],
    interrupts: { messages: { 0: 1, 1: 2 }, intx: 1, intxLeftUp: true },
    resets: { device: 2, 'connection-lost': 1 },
    deviceErrors: { count: 2, first: 'first' },
    injected: { 'interrupt.lose': 1 },
  });
});

test('events of a function that was never plugged in are told by its place', () => {
  const { functions } = new MadeTrace().dma({ rid: '00:1f.7' }).report;
  expect(functions.map(({ rid, name, dma }) => [rid, name, dma.reads])).toEqual([
    [RID, 'Engine', 0],
    ['00:1f.7', '', 1],
  ]);
});
