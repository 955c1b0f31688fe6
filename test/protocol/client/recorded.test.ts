import { mkdtempSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Adder } from '../../../examples/adder/adder.ts';
import { Entropy } from '../../../examples/entropy/entropy.ts';
import { Vmm } from '../../../src/client/vmm.ts';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { FaultPlan } from '../../../src/faults/fault-plan.ts';
import type { Instrument } from '../../../src/machine/instrument.ts';
import { replay } from '../../../src/replay/replay.ts';
import { readTrace } from '../../../src/trace/read-trace.ts';
import { Trace } from '../../../src/trace/trace.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { EntropyDriver } from './entropy-driver.ts';

/** Sessions over a real socket, recorded to a file and played back. */

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-recorded-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Bytes that are the same each time, unlike what Entropy gives by itself. */
const counting = (step = 1) => {
  let made = 0;
  const next = () => {
    made += step;
    return made & 0xff;
  };
  return new Entropy((length) => Uint8Array.from({ length }, next));
};

const modes = [
  ['plain', undefined],
  ['sealed', noSealedRam()],
] as const;

describe.each(modes)('recorded in %s memory', (memory, missing) => {
  test.skipIf(missing !== undefined)(
    'each function of a session is played back by itself, and one that is another differs',
    async () => {
      const path = join(directory, `${memory}.ndjson`);
      const trace = new Trace({ dataBytesMax: Number.POSITIVE_INFINITY, sink: path });
      {
        await using adder = await Vmm.host(new Adder(), {
          ...{ memory, instruments: [trace], log: () => {} },
        });
        await using edu = await adder.plug(new Edu());
        await using entropy = await adder.plug(counting());
        const numbers = adder.memory.allocate(Uint8Array.from({ length: 500 }, (_, i) => i));
        const driver = await EntropyDriver.probe(entropy);
        for (let round = 1; round <= 3; round++) {
          await Promise.all([
            adder.bar0.write('source', numbers.gpa),
            adder.bar0.write('length', 100 * round),
            adder.bar0.write('control', { go: true }),
            adder.bar0.read('control'),
            edu.bar0.write('status', { interruptWhenComputed: true }),
            edu.bar0.write('factorial', round),
            edu.bar0.read('status'),
          ]);
          await adder.interrupt().next();
          await edu.interrupt().next();
          await adder.bar0.read('sum');
          expect(await edu.bar0.read('factorial')).toBe([1, 2, 6][round - 1]);
          expect(await driver.random(40)).toHaveLength(40);
        }
        await edu.reset();
        await edu.bar0.read('factorial');
      }
      const recorded = readTrace(path);
      expect(recorded.cut).toBe(false);
      for (const make of [() => new Adder(), () => new Edu(), () => counting()]) {
        const replayed = await replay(recorded, make);
        expect(replayed.difference).toBeUndefined();
        expect(replayed.played).toBe(replayed.inputs);
        expect(replayed.inputs).toBeGreaterThan(9);
      }
      const { difference } = await replay(recorded, () => counting(3));
      expect(difference?.expected).toMatch(/^DMA write of 40 bytes .* from byte 0 on: 01 02 03/);
      expect(difference?.got).toMatch(/from byte 0 on: 03 06 09/);
      const first = recorded.events.findIndex(
        (event) => event.kind === 'dma' && event.bytes === 40,
      );
      expect(difference?.event).toBe(recorded.events[first]);
      // The header is line 1.
      expect(difference?.line).toBe(first + 2);
    },
  );
});

describe('a session with faults on demand', () => {
  const sums = async (instruments: readonly Instrument[]) => {
    await using vmm = await Vmm.host(new Adder(), { instruments, log: () => {} });
    const numbers = vmm.memory.allocate(Uint8Array.of(1, 2, 3));
    await vmm.bar0.write('source', numbers.gpa);
    await vmm.bar0.write('length', 3);
    for (let round = 0; round < 4; round++) {
      await vmm.bar0.write('control', { go: true });
      await vmm.bar0.read('sum');
      await vmm.bar0.read('control');
    }
  };

  test('that strike outside the device is the same again, where the trace stands at the device', async () => {
    const trace = new Trace({ dataBytesMax: Number.POSITIVE_INFINITY });
    const plan = new FaultPlan({ seed: 1 });
    const armed = [
      plan.arm('interrupt.lose', { nth: 1 }),
      plan.arm('dma.refuse', { nth: 2 }),
      plan.arm('register.stuck', { register: 'sum', value: 9, nth: 3 }),
    ];
    await sums([trace, plan]);
    expect(armed.map(({ struck }) => struck > 0)).toEqual([true, true, true]);
    const replayed = await replay(trace, () => new Adder());
    expect(replayed.difference).toBeUndefined();
    expect(replayed.played).toBe(replayed.inputs);
  });

  test('recorded outside, differs where the fault changed what is seen', async () => {
    const trace = new Trace({ dataBytesMax: Number.POSITIVE_INFINITY });
    const plan = new FaultPlan({ seed: 1 });
    plan.arm('interrupt.lose', { nth: 2 });
    await sums([plan, trace]);
    const { difference } = await replay(trace, () => new Adder());
    expect(difference?.got).toBe('MSI-X vector 0');
  });
});

test('a file that breaks off is replayed as far as it goes', async () => {
  const path = join(directory, 'broken.ndjson');
  const trace = new Trace({ dataBytesMax: Number.POSITIVE_INFINITY, sink: path });
  {
    await using vmm = await Vmm.host(new Edu(), { instruments: [trace], log: () => {} });
    for (let value = 0; value < 20; value++) {
      await vmm.bar0.write('liveness', value);
      await vmm.bar0.read('liveness');
    }
  }
  const { inputs } = await replay(readTrace(path), () => new Edu());
  truncateSync(path, 4000);
  const replayed = await replay(readTrace(path), () => new Edu());
  expect(replayed).toMatchObject({ same: true, cut: true });
  expect(replayed.inputs).toBeLessThan(inputs);
  expect(replayed.inputs).toBeGreaterThan(0);
});
