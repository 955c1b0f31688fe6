import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  DmaAbort,
  type DmaAccess,
  memoryBar,
  PciFunction,
  reg32,
  reg64,
} from '../../../src/pci/index.ts';
import { type RecordedTrace, type ReplayOptions, replay } from '../../../src/replay/replay.ts';
import { ReplayError } from '../../../src/replay/replay-stop.ts';
import type {
  AlarmEvent,
  DmaEvent,
  FaultEvent,
  FunctionEvent,
  InterruptEvent,
  InterruptModeEvent,
  RegisterEvent,
  ResetEvent,
  TraceEvent,
  TraceHeader,
} from '../../../src/trace/event.ts';

/** Traces written by hand, against small devices that do their work in every way there is. */

const RID = '00:05.0';
const GO = 0x00;
const DONE = 0x04;

/** Does `work` when a guest writes GO; DONE counts what is done. */
class Worker extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 0x5eb9, class: 0xff0000 };
  static override readonly interrupts = { msix: 1 };
  readonly bar0 = memoryBar(4096, {
    go: reg32(GO, { onWrite: () => this.work() }),
    done: reg32(DONE),
    address: reg64(0x08),
  });

  work(): unknown {
    return this.finish();
  }

  finish(): void {
    this.bar0.done++;
    this.msix.raise(0);
  }
}

const plugged: FunctionEvent = {
  ...{ t: 0, kind: 'function', rid: RID, name: 'Worker' },
  identity: {
    ...{ vendor: 0x1b36, device: 0x5eb9, subsystemVendor: 0x1b36, subsystem: 0 },
    ...{ revision: 0, classCode: 0xff0000 },
  },
  interrupts: { intx: 0, msi: 0, msix: 1 },
  bars: [
    { bar: 0, size: 4096, registers: [] },
    { bar: 1, size: 4096, registers: [] },
  ],
};

let time = 0;
const next = () => {
  time += 1000;
  return { t: time, rid: RID };
};
const write = (
  offset: number,
  value: number,
  more: Partial<RegisterEvent> = {},
): RegisterEvent => ({
  ...{ ...next(), kind: 'register', direction: 'write', bar: 0, offset, width: 4 },
  ...{ value: `0x${value.toString(16)}`, ...more },
});
const read = (offset: number, value: number, more: Partial<RegisterEvent> = {}): RegisterEvent => ({
  ...write(offset, value),
  ...{ direction: 'read', ...more },
});
const mode = (enabled: InterruptModeEvent['mode'] = 'msi-x'): InterruptModeEvent => ({
  ...next(),
  ...{ kind: 'interrupt-mode', mode: enabled },
});
const raised = (): InterruptEvent => ({ ...next(), kind: 'interrupt', how: 'msi-x', vector: 0 });
const alarm = (number: number): AlarmEvent => ({ ...next(), kind: 'alarm', alarm: number });
const reset = (): ResetEvent => ({ ...next(), kind: 'reset', cause: 'device' });
const dma = (direction: 'read' | 'write', iova: number, data: string): DmaEvent => ({
  ...{ ...next(), kind: 'dma', direction, iova: `0x${iova.toString(16)}`, pieces: [], data },
  bytes: data.length / 2,
});
const refused = (direction: 'read' | 'write', iova: number, bytes: number): FaultEvent => ({
  ...{ ...next(), kind: 'fault', direction, iova: `0x${iova.toString(16)}`, bytes },
  reason: 'unmapped',
});

const header: TraceHeader = {
  ...{ kind: 'trace', version: 1, epochMs: 0, memory: 'plain' },
  dataBytesMax: null,
};

function traced(...events: TraceEvent[]): RecordedTrace {
  return { header, events: [plugged, ...events] };
}

async function outcome(
  trace: RecordedTrace,
  make: () => PciFunction,
  options: ReplayOptions = { patienceMs: 10 },
) {
  const { difference, played, cut } = await replay(trace, make, options);
  return {
    line: difference?.line,
    expected: difference?.expected,
    got: difference?.got,
    played,
    cut,
  };
}

describe('how a device does its work', () => {
  class ByPromise extends Worker {
    override async work() {
      for (let i = 0; i < 10; i++) await undefined;
      this.finish();
    }
  }
  class ByImmediate extends Worker {
    override work() {
      setImmediate(() => this.finish());
    }
  }
  class ByAlarm extends Worker {
    override work() {
      this.clock.after(3e9, () => this.finish());
    }
  }
  class ByTimer extends Worker {
    override work() {
      setTimeout(() => this.finish(), 5);
    }
  }

  test.each([
    ['at once', Worker, []],
    ['by promises', ByPromise, []],
    ['by an immediate of its own', ByImmediate, []],
    ['by an alarm, which does not wait for its three seconds', ByAlarm, [alarm(1)]],
  ] as const)('%s: its outputs and its state are where they were', async (_, Device, alarms) => {
    const started = performance.now();
    for (const round of [1, 2, 3]) {
      time = 0;
      const again = alarms.map((one) => ({ ...one, t: 4e9 }));
      const trace = traced(
        write(GO, 1),
        ...again,
        mode(),
        raised(),
        read(DONE, 1),
        write(GO, 1),
        ...again.map((one) => ({ ...one, alarm: 2, t: 8e9 })),
        raised(),
        ...(round > 1 ? [read(DONE, 2)] : []),
      );
      expect((await outcome(trace, () => new Device())).line).toBeUndefined();
    }
    expect(performance.now() - started).toBeLessThan(2000);
  });

  test('by a timer of its own: what stands before an access is waited for, and then missed', async () => {
    time = 0;
    const trace = traced(write(GO, 1), mode(), raised(), read(DONE, 1));
    const patient = { patienceMs: 5000 };
    expect((await outcome(trace, () => new ByTimer(), patient)).line).toBeUndefined();
    class Never extends Worker {
      override work() {}
    }
    expect(await outcome(trace, () => new Never())).toEqual({
      ...{
        line: 5,
        expected: 'MSI-X vector 0',
        got: 'nothing until line 6 came: read BAR0+0x4 = 0x1',
      },
      ...{ played: 1, cut: false },
    });
  });

  test('accesses of one turn come in one turn: no promise goes on between them', async () => {
    time = 0;
    const sameTurn = true as const;
    const inOne = traced(
      write(GO, 1),
      read(DONE, 0, { sameTurn }),
      write(GO, 1, { sameTurn }),
      mode(),
      raised(),
      raised(),
      read(DONE, 2),
    );
    expect((await outcome(inOne, () => new ByPromise())).line).toBeUndefined();
    const apart = traced(write(GO, 1), mode(), raised(), read(DONE, 1));
    expect((await outcome(apart, () => new ByPromise())).line).toBeUndefined();
    expect(await outcome(inOne, () => new Worker())).toMatchObject({
      line: 4,
      got: 'read BAR0+0x4 = 0x1',
    });
  });

  test('an alarm that the recording did not ring does not ring, until it is long overdue', async () => {
    time = 0;
    const still = traced(write(GO, 1), { ...read(DONE, 0), t: 12.9e9 });
    expect((await outcome(still, () => new ByAlarm())).line).toBeUndefined();
    const overdue = traced(write(GO, 1), { ...read(DONE, 0), t: 13.1e9 });
    expect((await outcome(overdue, () => new ByAlarm())).line).toBe(4);
  });

  test('a device that looks at its clock again and again finds it as late as it was then', async () => {
    class Waits extends Worker {
      override work() {
        const until = this.clock.nowNs + 5e9;
        const look = () => (this.clock.nowNs < until ? setImmediate(look) : this.finish());
        setImmediate(look);
      }
    }
    time = 0;
    const trace = traced(
      write(GO, 1),
      { ...read(DONE, 0), t: 4.9e9 },
      { ...mode(), t: 5.1e9 },
      { ...raised(), t: 5.1e9 },
      { ...read(DONE, 1), t: 6e9 },
    );
    expect((await outcome(trace, () => new Waits())).line).toBeUndefined();
  });

  test('where a trace holds no alarms they ring when they are due', async () => {
    time = 0;
    const events = [
      write(GO, 1),
      { ...read(DONE, 0), t: 2.9e9 },
      { ...mode(), t: 3.1e9 },
      { ...raised(), t: 3.1e9 },
      { ...read(DONE, 1), t: 3.2e9 },
    ];
    const trace = { header: { ...header, dataBytesMax: 0 }, events: [plugged, ...events] };
    expect((await outcome(trace, () => new ByAlarm())).line).toBeUndefined();
  });

  test('a device that sets its alarms otherwise than the recorded one is followed all the same', async () => {
    class MoreAlarms extends Worker {
      override work() {
        this.clock.after(60e9, () => this.finish());
        this.clock.after(1e9, () => this.clock.after(1e9, () => this.finish()));
      }
    }
    time = 0;
    const trace = traced(
      write(GO, 1),
      { ...alarm(1), t: 3.1e9 },
      { ...mode(), t: 3.1e9 },
      { ...raised(), t: 3.1e9 },
      { ...read(DONE, 1), t: 3.2e9 },
    );
    expect((await outcome(trace, () => new MoreAlarms())).line).toBeUndefined();
  });

  test('what a device does by itself may come early, but not before a reset that it came after', async () => {
    class Twice extends Worker {
      override work() {
        setTimeout(() => {
          this.finish();
          this.finish();
        }, 1);
      }
    }
    time = 0;
    const patient = { patienceMs: 5000 };
    const trace = traced(write(GO, 1), mode(), raised(), write(0x08, 1), raised());
    expect((await outcome(trace, () => new Twice(), patient)).line).toBeUndefined();
    const across = traced(write(GO, 1), mode(), raised(), reset(), raised());
    expect((await outcome(across, () => new Twice(), { patienceMs: 50 })).line).toBe(6);
  });
});

describe('resets', () => {
  test('are played, and what they end does not come', async () => {
    class Slow extends Worker {
      override work() {
        this.clock.after(1000, () => this.finish());
      }
    }
    time = 0;
    const trace = traced(
      write(GO, 1),
      reset(),
      read(DONE, 0),
      write(GO, 1),
      alarm(2),
      mode(),
      raised(),
    );
    expect((await outcome(trace, () => new Slow())).line).toBeUndefined();
  });

  test('after a difference, or the end, the device is left reset: no timer of it runs on', async () => {
    const signals: AbortSignal[] = [];
    class Watched extends Worker {
      override work() {
        signals.push(this.untilReset);
      }
    }
    time = 0;
    await outcome(traced(write(GO, 1)), () => new Watched());
    await outcome(traced(write(GO, 1), read(DONE, 7)), () => new Watched());
    expect(signals.map(({ aborted }) => aborted)).toEqual([true, true]);
  });
});

describe('interrupts that the guest has not enabled', () => {
  test('go nowhere, as in the recording', async () => {
    time = 0;
    const trace = traced(write(GO, 1), read(DONE, 1), write(GO, 1), mode(), raised());
    expect((await outcome(trace, () => new Worker())).line).toBeUndefined();
  });

  test('an answer that the device did not ask for this time holds for its next question', async () => {
    class AsksLater extends Worker {
      #asked = 0;
      override finish() {
        this.bar0.done++;
        if (this.#asked++ > 0) this.msix.raise(0);
      }
    }
    time = 0;
    const trace = traced(write(GO, 1), mode(), write(GO, 1), raised());
    expect((await outcome(trace, () => new AsksLater())).line).toBeUndefined();
    const off = traced(
      write(GO, 1),
      mode(),
      write(0x08, 1),
      mode('none'),
      write(GO, 1),
      read(DONE, 2),
    );
    expect((await outcome(off, () => new AsksLater())).line).toBeUndefined();
  });
});

describe('batches', () => {
  class Batcher extends Worker {
    readonly order: readonly number[];
    readonly aborts: boolean[] = [];
    readonly bytes: number[] = [];
    constructor(order: readonly number[] = [0, 1, 2]) {
      super();
      this.order = order;
    }

    override work() {
      const accesses: DmaAccess[] = this.order.map((n) => {
        return { iova: 0x1000 * n, bytes: new Uint8Array(1), abort: undefined };
      });
      this.dma.readBatch(accesses, accesses.length);
      for (const access of accesses) {
        this.aborts.push(access.abort instanceof DmaAbort);
        this.bytes.push(access.bytes[0] ?? 0);
      }
      this.finish();
    }
  }

  test('take their refusals and bytes whatever the order in which they were recorded', async () => {
    time = 0;
    // As the IOMMU has it: refusals come before what is done.
    const trace = traced(
      write(GO, 1),
      refused('read', 0x1000, 1),
      dma('read', 0, '11'),
      dma('read', 0x2000, '33'),
      mode(),
      raised(),
      read(DONE, 1),
    );
    await fc.assert(
      fc.asyncProperty(fc.shuffledSubarray([0, 1, 2], { minLength: 3 }), async (order) => {
        const device = new Batcher(order);
        expect((await outcome(trace, () => device)).line).toBeUndefined();
        expect(device.aborts).toEqual(order.map((n) => n === 1));
        expect(device.bytes).toEqual(order.map((n) => [0x11, 0, 0x33][n]));
      }),
    );
  });

  test('one access that is another differs at what the batch has not made', async () => {
    time = 0;
    const trace = traced(
      write(GO, 1),
      ...[dma('read', 0, '11'), dma('read', 0x1000, '22'), dma('read', 0x2000, '33')],
    );
    expect(await outcome(trace, () => new Batcher([0, 1, 7]))).toMatchObject({
      line: 6,
      expected: 'DMA read of 1 bytes at 0x2000: 33',
      got: 'DMA read of 1 bytes at 0x7000, one of a batch of 3',
    });
    expect(await outcome(trace, () => new Batcher([0, 1, 2, 3]))).toMatchObject({
      line: 7,
      expected: 'nothing more',
    });
    expect(await outcome(trace, () => new Batcher([0, 1]))).toMatchObject({ line: 6 });
  });
});

describe('what a device writes', () => {
  class Writer extends Worker {
    readonly #bytes: Uint8Array;
    constructor(bytes: Uint8Array) {
      super();
      this.#bytes = bytes;
    }
    override work() {
      this.dma.writeFrom(0x10, this.#bytes);
    }
  }

  test('is compared to the last byte, and the first other one is told', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: 1, maxLength: 64 }),
        fc.nat(63),
        fc.integer({ min: 1, max: 255 }),
        async (bytes, place, change) => {
          time = 0;
          const trace = traced(
            write(GO, 1),
            dma('write', 0x10, Buffer.from(bytes).toString('hex')),
          );
          expect((await outcome(trace, () => new Writer(bytes))).line).toBeUndefined();
          const at = place % bytes.length;
          const other = bytes.map((byte, n) => (n === at ? byte ^ change : byte));
          const differs = await outcome(trace, () => new Writer(other));
          expect(differs.line).toBe(4);
          expect(differs.got).toContain(`from byte ${at} on`);
        },
      ),
    );
  });

  test('where the trace has the first bytes alone, those are compared', async () => {
    time = 0;
    const short = { ...dma('write', 0x10, 'aabb'), bytes: 4 };
    const trace = traced(write(GO, 1), short);
    const bytes = (last: number) => Uint8Array.of(0xaa, 0xbb, 1, last);
    expect((await outcome(trace, () => new Writer(bytes(1)))).line).toBeUndefined();
    expect((await outcome(trace, () => new Writer(Uint8Array.of(0xaa, 0, 1, 1)))).line).toBe(4);
  });
});

describe('a trace and a device', () => {
  test('cut short, it is replayed as far as it goes, and what came after is not held against the device', async () => {
    time = 0;
    const whole = traced(write(GO, 1), mode(), raised(), write(GO, 1), raised());
    for (const shorter of [
      { ...whole, cut: true, events: whole.events.slice(0, -1) },
      { ...whole, dropped: 3, events: whole.events.slice(0, -1) },
      {
        ...whole,
        end: { kind: 'end', t: 0, events: 5, dropped: 1 } as const,
        events: whole.events.slice(0, -1),
      },
    ]) {
      expect(await outcome(shorter, () => new Worker())).toMatchObject({
        line: undefined,
        cut: true,
      });
      expect((await replay(shorter, () => new Worker())).text()).toMatch(/cut short/);
    }
    const said = { ...whole, events: whole.events.slice(0, -1) };
    expect(await outcome(said, () => new Worker())).toMatchObject({ line: 7, cut: false });
  });

  test('that are of another shape differ where it was plugged in', async () => {
    class Other extends Worker {
      static override readonly interrupts = { msix: 2 };
    }
    time = 0;
    const differs = await outcome(traced(write(GO, 1)), () => new Other());
    expect(differs).toMatchObject({ line: 2, played: 0 });
    expect([differs.expected, differs.got]).toEqual([
      expect.stringContaining('1 MSI-X'),
      expect.stringContaining('2 MSI-X'),
    ]);
  });

  test('of several functions: the one that the device is like, or the one that is named', async () => {
    time = 0;
    const [one, two] = [plugged, { ...plugged, rid: '00:06.0' }];
    const other = { ...plugged, rid: '00:07.0', name: 'Other' };
    const stranger = { ...other, identity: { ...other.identity, device: 1 } };
    const mine = [write(GO, 1), mode(), raised()];
    const others = [
      { ...write(GO, 1), rid: '00:06.0' },
      { ...read(DONE, 9), rid: '00:06.0' },
    ];
    const both: RecordedTrace = { header, events: [one, two, ...mine, ...others] };
    await expect(replay(both, () => new Worker())).rejects.toThrow(
      /several that it may be: 00:05\.0 Worker, 00:06\.0 Worker\. Name one/,
    );
    expect((await outcome(both, () => new Worker(), { rid: '00:05.0' })).line).toBeUndefined();
    expect((await outcome(both, () => new Worker(), { rid: '0000:00:06.0' })).line).toBe(8);
    const alike: RecordedTrace = { header, events: [stranger, one, ...mine] };
    expect((await outcome(alike, () => new Worker())).line).toBeUndefined();
    await expect(replay(both, () => new Worker(), { rid: '00:09.0' })).rejects.toThrow(
      /function 00:09\.0 in the trace, got: 00:05\.0 Worker/,
    );
    await expect(replay({ header, events: [] }, () => new Worker())).rejects.toThrow(ReplayError);
  });

  test('of several that were at one place one after the other: the last', async () => {
    time = 0;
    const first = [write(GO, 1), mode(), raised(), read(DONE, 1)];
    const again: FunctionEvent = { ...plugged, ...next() };
    const second = [write(GO, 1), mode(), raised()];
    const moved = (done: number) => traced(...first, again, ...second, read(DONE, done));
    expect((await outcome(moved(1), () => new Worker())).line).toBeUndefined();
    expect(await outcome(moved(2), () => new Worker())).toMatchObject({ line: 11, played: 2 });
  });

  test('a value that has not its width, or a place outside the BAR, is told and not played', async () => {
    time = 0;
    const odd = traced({ ...write(GO, 1), value: '0x123456789' });
    await expect(replay(odd, () => new Worker())).rejects.toThrow(
      /a value of 4 bytes .* got 0x123456789/,
    );
    const outside = traced(write(4096, 1));
    expect((await outcome(outside, () => new Worker())).line).toBe(3);
  });

  test('a device that throws differs, and says where; one that threw in the recording has to', async () => {
    class Throwing extends Worker {
      override work() {
        throw new Error('out of paper');
      }
    }
    time = 0;
    const differs = await outcome(traced(write(GO, 1), read(DONE, 0)), () => new Throwing());
    expect(differs).toMatchObject({ line: 4 });
    expect(differs.got).toMatch(/the device throws: out of paper \(at .*hand-made\.test\.ts/);
    const threw = { ...next(), kind: 'device-error' as const, message: 'out of paper' };
    const thrown = traced(write(GO, 1), threw, { ...read(DONE, 0), value: '0xffffffff' });
    expect((await outcome(thrown, () => new Throwing())).line).toBeUndefined();
    expect(await outcome(thrown, () => new Worker())).toMatchObject({
      line: 4,
      expected: 'the device throws: out of paper',
    });
  });

  test('faults on demand of the recording are named beside a difference', async () => {
    time = 0;
    const struck = {
      ...next(),
      kind: 'injected' as const,
      fault: 'completion.drop',
      detail: 'one',
    };
    const trace = traced(write(GO, 1), struck, read(DONE, 0));
    const { difference } = await replay(trace, () => new Worker(), { patienceMs: 1 });
    expect(difference?.notes).toEqual([expect.stringMatching(/a fault was injected .* line 4/)]);
  });

  test('patience is bounded', async () => {
    await expect(replay(traced(), () => new Worker(), { patienceMs: Number.NaN })).rejects.toThrow(
      /patience of 0 to 600000/,
    );
  });
});
