import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Adder } from '../../../examples/adder/adder.ts';
import { Edu, type EduOptions } from '../../../src/devices/edu/edu.ts';
import { replay } from '../../../src/replay/replay.ts';
import type { RegisterEvent, TraceEvent } from '../../../src/trace/event.ts';
import { readTrace } from '../../../src/trace/read-trace.ts';
import { Session } from './session.ts';

/** What was recorded of a device, played back to it and to others. */

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-replay-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const LIVENESS = 0x04;
const FACTORIAL = 0x08;
const EDU_REGISTERS = [
  ...[0x00, LIVENESS, FACTORIAL, 0x0c, 0x20, 0x24, 0x60, 0x64],
  ...[0x80, 0x84, 0x88, 0x90, 0x98, 0x9c, 0xa0],
];

type Step =
  | { readonly do: 'read'; readonly offset: number; readonly width: number }
  | {
      readonly do: 'write';
      readonly offset: number;
      readonly width: number;
      readonly value: bigint;
    }
  | { readonly do: 'turn'; readonly turns: number }
  | { readonly do: 'transfer'; readonly values: readonly bigint[] }
  | { readonly do: 'reset' }
  | { readonly do: 'mode'; readonly mode: 'none' | 'intx' | 'msi' }
  | { readonly do: 'reach'; readonly allowed: boolean };

const offset = fc.constantFrom(...EDU_REGISTERS);
const width = fc.constantFrom(4, 4, 4, 8, 2, 1);
const value = fc.oneof(
  fc.bigInt({ min: 0n, max: 0xffff_ffffn }),
  fc.constantFrom(0n, 1n, 3n, 5n, 7n, 0x80n, 0x100n, 0x40000n, 0x1000n),
);
const transfer = fc
  .tuple(fc.nat(0xffff), fc.nat(0x1010), fc.nat(0x1010), fc.nat(7))
  .map(([ram, inside, count, command]) => {
    const place = BigInt(0x40000 + inside);
    const toRam = (command & 2) !== 0;
    const [source, target] = toRam ? [place, BigInt(ram)] : [BigInt(ram), place];
    return {
      do: 'transfer' as const,
      values: [source, target, BigInt(count), BigInt(command | 1)],
    };
  });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('read' as const), offset, width }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('write' as const), offset, width, value }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('turn' as const), turns: fc.nat(3) }) },
  { weight: 2, arbitrary: transfer },
  { weight: 1, arbitrary: fc.constant({ do: 'reset' as const }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('mode' as const),
      mode: fc.constantFrom('none' as const, 'intx' as const, 'msi' as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reach' as const), allowed: fc.boolean() }) },
);

/** Drives an edu so, all that is between two turns in one. */
async function recorded(steps: readonly Step[], options: EduOptions = {}): Promise<Session> {
  const session = new Session(new Edu(options));
  for (const [at] of session.memory.entries()) session.memory[at] = at * 13 + (at >> 8);
  for (const one of steps) {
    if (one.do === 'read') session.read(one.offset, one.width);
    else if (one.do === 'write') session.write(one.offset, one.value, one.width);
    else if (one.do === 'turn') await session.turn(one.turns);
    else if (one.do === 'reset') session.reset();
    else if (one.do === 'mode') session.interrupts.mode = one.mode;
    else if (one.do === 'reach') session.reach(one.allowed);
    else for (const [n, word] of one.values.entries()) session.write(0x80 + 8 * n, word, 8);
  }
  return session;
}

describe('any session of edu', () => {
  test('played back to the same device never differs, however its accesses and turns were mixed', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const { trace } = await recorded(steps);
        const replayed = await replay(trace, () => new Edu());
        expect(replayed.difference).toBeUndefined();
        expect(replayed.played).toBe(replayed.inputs);
      }),
      { numRuns: 150 },
    );
  });

  test('is the same out of a file, line for line, and also where the device takes its time', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const { trace } = await recorded([...steps, { do: 'turn', turns: 3 }], { delayNs: 500 });
        const path = join(directory, 'edu.ndjson');
        trace.writeTo(path);
        const replayed = await replay(readTrace(path), () => new Edu({ delayNs: 500 }));
        expect(replayed.difference).toBeUndefined();
        expect(replayed.cut).toBe(false);
      }),
      { numRuns: 50 },
    );
  });

  test('played back to one with a planted change differs at the first access that shows it', async () => {
    class Planted extends Edu {
      override readBar(bar: number, at: number, into: Uint8Array): void {
        super.readBar(bar, at, into);
        if (at === LIVENESS && into.length === 4) into[3] = (into[3] ?? 0) ^ 0x80;
      }
    }
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const { trace } = await recorded(steps);
        const isShown = (event: TraceEvent) =>
          event.kind === 'register' &&
          event.direction === 'read' &&
          event.offset === LIVENESS &&
          event.width === 4;
        const first = trace.events.findIndex(isShown);
        const { difference } = await replay(trace, () => new Planted());
        // The header is line 1.
        expect(difference?.line).toBe(first < 0 ? undefined : first + 2);
        expect(difference?.event).toBe(first < 0 ? undefined : trace.events[first]);
      }),
    );
  });
});

describe('a difference', () => {
  const factorial = async () => {
    const session = new Session(new Edu());
    session.interrupts.mode = 'msi';
    session.write(0x20, 0x80);
    session.write(FACTORIAL, 5);
    expect(session.read(0x20)).toBe(0x81n);
    await session.turn(2);
    expect(session.read(FACTORIAL)).toBe(120n);
    session.write(0x64, 1);
    return session.trace;
  };

  test('in a value shows both with their fields, and the lines around it by register names', async () => {
    class NotBusy extends Edu {
      override readBar(bar: number, at: number, into: Uint8Array): void {
        super.readBar(bar, at, into);
        if (at === 0x20) into[0] = (into[0] ?? 0) & ~1;
      }
    }
    const replayed = await replay(await factorial(), () => new NotBusy(), { name: 'edu.ndjson' });
    expect(replayed.same).toBe(false);
    expect(() => replayed.check()).toThrow(/edu\.ndjson:5: 00:05\.0 Edu differs/);
    expect(replayed.difference).toMatchObject({
      line: 5,
      expected: 'read status = 0x81 (computing 1, interruptWhenComputed 1)',
      got: 'read status = 0x80 (computing 0, interruptWhenComputed 1)',
    });
    expect(replayed.difference?.around.map(({ line, words, here }) => [line, words, here])).toEqual(
      [
        [2, 'Edu is plugged in', false],
        [3, 'write status ← 0x80 (computing 0, interruptWhenComputed 1)', false],
        [4, 'write factorial ← 0x5', false],
        [5, 'read status = 0x81 (computing 1, interruptWhenComputed 1)', true],
        [6, 'alarm 1 rings', false],
        [7, 'asks which interrupts are enabled: msi', false],
      ],
    );
    expect(replayed.text()).toMatch(/^> 5 +\d+\.\d{3} ms {2}read status = 0x81/m);
  });

  test('an interrupt that does not come is missed at its line, and what came instead is named', async () => {
    class Silent extends Edu {
      override reset() {}
      protected override readonly interrupt = Object.assign(Object.create(null), {
        raise: () => {},
        lower: () => {},
      });
    }
    const { difference } = await replay(await factorial(), () => new Silent(), { patienceMs: 5 });
    expect(difference).toMatchObject({
      line: 8,
      expected: 'MSI vector 0',
      got: 'nothing until line 9 came: read factorial = 0x78',
    });
  });

  test('one interrupt too many is told with the access before which it came', async () => {
    class Twice extends Edu {
      override writeBar(bar: number, at: number, from: Uint8Array): void {
        super.writeBar(bar, at, from);
        if (at === 0x64) this.interrupt.raise();
      }
    }
    const { difference } = await replay(await factorial(), () => new Twice());
    expect(difference).toMatchObject({ line: 11, expected: 'nothing more', got: 'MSI vector 0' });
    expect(difference?.event).toBeUndefined();

    class Early extends Edu {
      override writeBar(bar: number, at: number, from: Uint8Array): void {
        super.writeBar(bar, at, from);
        if (at === FACTORIAL) this.interrupt.raise();
      }
    }
    const early = await replay(await factorial(), () => new Early());
    expect(early.difference?.line).toBe(5);
    expect(early.difference?.expected).toMatch(
      /^read status = .* and nothing of the device before it/,
    );
    // It asks before the recorded one did; to it the guest has enabled nothing yet.
    expect(early.difference?.got).toBe('INTA# asserted');
  });
});

describe('DMA', () => {
  const sums = async (...buffers: Uint8Array[]) => {
    const session = new Session(new Adder());
    for (const [n, bytes] of buffers.entries()) {
      session.memory.set(bytes, 0x1000 * (n + 1));
      session.write(0x08, 0x1000 * (n + 1), 8);
      session.write(0x10, bytes.length);
      session.write(0x00, 1);
      await session.turn();
      session.read(0x14);
      session.read(0x00);
    }
    return session.trace;
  };

  test('its data comes from the trace, and a device that makes something else of it differs', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 }), { minLength: 1, maxLength: 5 }),
        async (buffers) => {
          const trace = await sums(...buffers);
          expect((await replay(trace, () => new Adder())).same).toBe(true);
          class Mod256 extends Adder {
            override async run() {
              await super.run();
              this.bar0.sum &= 0xff;
            }
          }
          const total = (bytes: Uint8Array) => bytes.reduce((a, b) => a + b, 0);
          const wrong = buffers.findIndex((bytes) => total(bytes) > 255);
          const { difference } = await replay(trace, () => new Mod256());
          const read = trace.events.filter(
            (event): event is RegisterEvent => event.kind === 'register' && event.offset === 0x14,
          )[wrong];
          expect(difference?.event).toEqual(read);
        },
      ),
    );
  });

  test('another address or length differs where it is made', async () => {
    class Short extends Adder {
      override async run() {
        this.bar0.length -= 1;
        await super.run();
      }
    }
    const { difference } = await replay(await sums(Uint8Array.of(1, 2)), () => new Short());
    expect(difference).toMatchObject({
      line: 6,
      expected: 'DMA read of 2 bytes at 0x1000: 01 02',
      got: 'DMA read of 1 bytes at 0x1000',
    });
  });

  test('a refusal is a refusal again, with its reason', async () => {
    const session = new Session(new Adder());
    session.reach(false);
    session.write(0x10, 4);
    session.write(0x00, 1);
    await session.turn();
    expect(session.read(0x00)).toBe(4n);
    expect((await replay(session.trace, () => new Adder())).same).toBe(true);
    class Deaf extends Adder {
      override async run() {
        await super.run();
        this.bar0.control.error = false;
      }
    }
    const { difference } = await replay(session.trace, () => new Deaf());
    expect(difference?.expected).toMatch(/error 1/);
    expect(difference?.got).toMatch(/error 0/);
  });

  test('a trace without all data says how to record one', async () => {
    const { Trace } = await import('../../../src/trace/trace.ts');
    const session = new Session(new Adder(), new Trace({ dataBytesMax: 4 }));
    session.write(0x10, 5);
    session.write(0x00, 1);
    await session.turn();
    await expect(replay(session.trace, () => new Adder())).rejects.toThrow(
      /all 5 bytes of the DMA read at 0x0 in the trace, got 4: record it with new Trace/,
    );
  });
});
