import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SystemError } from '../../../src/ffi/libc.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { detachStaleMount } from '../../../src/memory/fuse/fuse-mount.ts';
import { gpa, MemoryError, type MemoryRun } from '../../../src/memory/guest-memory.ts';
import { noSealedRam, runOf, sealedBench } from './sealed-bench.ts';
import { twoVcpus } from './vcpus.ts';

const MIB = 1024 * 1024;
const PAGE = 4096;
const SLOT = keySlot(1);

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

function failures(runs: readonly MemoryRun[]): boolean[] {
  return runs.map(({ failure }) => failure !== undefined);
}

/** Whether every byte is one that some run of an unordered batch put there, or the old one. */
function isOneOf(
  now: Uint8Array,
  before: Uint8Array,
  runs: readonly { at: number; data: Uint8Array }[],
): boolean {
  // Per byte: 0 nobody's, 1 somebody's but not what is there, 2 explained.
  const state = new Uint8Array(now.length);
  for (const { at, data } of runs) {
    for (let i = 0; i < data.length; i++) {
      if (now[at + i] === data[i]) state[at + i] = 2;
      else if (state[at + i] === 0) state[at + i] = 1;
    }
  }
  for (let i = 0; i < now.length; i++) {
    if (state[i] === 1 || (state[i] === 0 && now[i] !== before[i])) return false;
  }
  return true;
}

describe.skipIf(missing !== undefined)('batches in sealed RAM', () => {
  test('the CPU and batches see the same bytes: any size, unaligned, overlapping, refused', async () => {
    const bytes = MIB;
    await using bench = await sealedBench(bytes);
    const { ram, memory } = bench;
    await bench.controller.generateKey(keySlot(2), vmId(2));
    const cpu = openSync(ram.path, 'r+');
    let model: Uint8Array = new Uint8Array(bytes);
    const anAccess = fc.record({
      at: fc.oneof(
        fc.integer({ min: 0, max: bytes - 1 }),
        fc.integer({ min: 0, max: bytes / PAGE - 1 }).map((page) => page * PAGE),
        // A small range, so that many of them overlap or are neighbours.
        fc.integer({ min: 0, max: 40 }).map((n) => 5 * PAGE + n * 256),
      ),
      data: fc.oneof(
        { weight: 4, arbitrary: fc.uint8Array({ minLength: 1, maxLength: 300 }) },
        { weight: 4, arbitrary: fc.nat(255).map((fill) => new Uint8Array(256).fill(fill)) },
        { weight: 3, arbitrary: fc.nat(255).map((fill) => new Uint8Array(PAGE).fill(fill)) },
        {
          weight: 1,
          arbitrary: fc.integer({ min: 1, max: 600_000 }).map((n) => new Uint8Array(n).fill(n)),
        },
      ),
      slot: fc.oneof({ weight: 9, arbitrary: fc.constant(1) }, fc.constantFrom(2, 3)),
    });
    const batch = fc.record({
      direction: fc.constantFrom('read' as const, 'write' as const),
      stores: fc.array(fc.record({ at: fc.nat(bytes - 64), fill: fc.nat(255) }), { maxLength: 5 }),
      accesses: fc.array(anAccess, { minLength: 1, maxLength: 150, size: 'max' }),
    });
    const now = new Uint8Array(bytes);
    fc.assert(
      fc.property(fc.array(batch, { minLength: 1, maxLength: 5 }), (batches) => {
        for (const { direction, stores, accesses } of batches) {
          for (const { at, fill } of stores) {
            writeSync(cpu, new Uint8Array(64).fill(fill), 0, 64, at);
            model.fill(fill, at, at + 64);
          }
          const fitting = accesses.map(({ at, data, slot }) => ({
            ...{ at, slot, data: data.subarray(0, Math.min(data.length, bytes - at)) },
          }));
          const runs = fitting.map(({ at, data, slot }) => runOf(at, data.slice(), slot));
          if (direction === 'read') memory.readBatch(runs, runs.length);
          else memory.writeBatch(runs, runs.length);
          expect(failures(runs)).toEqual(fitting.map(({ slot }) => slot !== 1));
          if (direction === 'read') {
            for (const [i, { at, data, slot }] of fitting.entries()) {
              const wanted = slot === 1 ? model.subarray(at, at + data.length) : data;
              expect(Buffer.compare(runs[i]?.bytes ?? data, wanted)).toBe(0);
            }
          } else {
            readSync(cpu, now, 0, bytes, 0);
            const done = fitting.filter(({ slot }) => slot === 1);
            expect(isOneOf(now, model, done)).toBe(true);
            model = now.slice();
          }
        }
      }),
      { numRuns: 60 },
    );
    closeSync(cpu);
    expect(ram.batchCounters).toMatchObject({ fallbacks: 0 });
    expect(ram.batchCounters.together).toBeGreaterThan(300);
    expect(ram.batchCounters.scattered).toBeGreaterThan(300);
    expect(bench.failures).toEqual([]);
  });

  test('a batch is one go, and neighbours in it are one request', async () => {
    await using bench = await sealedBench(MIB);
    const { ram, memory } = bench;
    const pages = (step: number) =>
      Array.from({ length: 32 }, (_, i) => runOf(i * step, new Uint8Array(PAGE).fill(i + 1)));
    const counted = async (act: () => void) => {
      const before = { ...(await ram.counters()), ...ram.batchCounters };
      act();
      const after = { ...(await ram.counters()), ...ram.batchCounters };
      return {
        goes: after.goes - before.goes,
        reads: after.dmaReads - before.dmaReads,
        writes: after.dmaWrites - before.dmaWrites,
      };
    };
    const scattered = pages(2 * PAGE);
    expect(await counted(() => memory.writeBatch(scattered, 32))).toEqual({
      ...{ goes: 1, reads: 0, writes: 32 },
    });
    const together = pages(PAGE);
    expect(await counted(() => memory.writeBatch(together, 32))).toEqual({
      ...{ goes: 1, reads: 0, writes: 1 },
    });
    for (const run of together) run.bytes.fill(0);
    expect(await counted(() => memory.readBatch(together, 32))).toEqual({
      ...{ goes: 1, reads: 1, writes: 0 },
    });
    for (const [i, { bytes }] of together.entries()) {
      expect([...new Set(bytes)]).toEqual([i + 1]);
    }
  });

  test('writes to pages that the CPU has not looked at since the last go in one message', async () => {
    await using bench = await sealedBench(MIB);
    const { ram, memory } = bench;
    const cpu = openSync(ram.path, 'r+');
    const write = (fill: number) => {
      const before = { ...ram.batchCounters };
      const runs = Array.from({ length: 32 }, (_, i) =>
        runOf(i * 2 * PAGE + 100, new Uint8Array(2000).fill(fill + i)),
      );
      memory.writeBatch(runs, runs.length);
      expect(failures(runs)).toEqual(runs.map(() => false));
      const { scattered, together } = ram.batchCounters;
      return { scattered: scattered - before.scattered, together: together - before.together };
    };
    const seen = (page: number) => {
      const bytes = new Uint8Array(PAGE);
      readSync(cpu, bytes, 0, PAGE, page * PAGE);
      return [...new Set(bytes.subarray(100, 2100)), bytes[2100], bytes[99]];
    };
    // Nothing is known of memory that was never dropped.
    expect(write(1)).toEqual({ scattered: 0, together: 32 });
    expect(write(41)).toEqual({ scattered: 32, together: 0 });
    expect((await ram.counters()).dmaScatters).toBe(1);
    expect(seen(4)).toEqual([43, 0, 0]);
    writeSync(cpu, new Uint8Array([9]), 0, 1, 8 * PAGE + 2100);
    // A look and a store brought two pages back; their stores are kept, and theirs alone go by drop.
    const { scattered, together } = write(81);
    expect(scattered + together).toBe(32);
    expect(together).toBeGreaterThanOrEqual(2);
    expect(seen(4)).toEqual([83, 0, 0]);
    expect(seen(8)).toEqual([85, 9, 0]);
    expect(seen(62)).toEqual([112, 0, 0]);
    closeSync(cpu);
  });

  test('a run of a slot that may not be used fails, and changes and tells nothing', async () => {
    await using bench = await sealedBench(MIB);
    const { ram, memory } = bench;
    await bench.controller.generateKey(keySlot(2), vmId(2));
    const all = Array.from({ length: 40 }, (_, i) => runOf(i * PAGE, new Uint8Array(PAGE).fill(7)));
    memory.writeBatch(all, all.length);
    const before = ram.dram().slice();
    const slots = [1, 2, 3];
    const runs = all.map((_, i) =>
      runOf(i * PAGE + 16, new Uint8Array(100).fill(0x5c), slots[i % 3]),
    );
    memory.writeBatch(runs, runs.length);
    expect(failures(runs)).toEqual(runs.map((_, i) => i % 3 !== 0));
    for (let page = 0; page < 40; page++) {
      const changed = Buffer.compare(
        ram.dram().subarray(page * PAGE, (page + 1) * PAGE),
        before.subarray(page * PAGE, (page + 1) * PAGE),
      );
      expect(changed !== 0).toBe(page % 3 === 0);
    }
    for (const run of runs) run.bytes.fill(0x11);
    memory.readBatch(runs, runs.length);
    expect(failures(runs)).toEqual(runs.map((_, i) => i % 3 !== 0));
    for (const [i, { bytes, failure }] of runs.entries()) {
      expect([...new Set(bytes)]).toEqual([i % 3 === 0 ? 0x5c : 0x11]);
      if (failure !== undefined) expect(failure.message).toContain('expected a key slot');
    }
  });

  test('a batch that broke leaves nothing for the next', async () => {
    await using bench = await sealedBench(MIB);
    const { memory, ram } = bench;
    const good = runOf(0, new Uint8Array(100).fill(1));
    const broken = runOf(8192, new Uint8Array(100).fill(2));
    Object.defineProperty(broken, 'bytes', {
      get: () => {
        throw new Error('broken');
      },
    });
    expect(() => memory.writeBatch([good, broken], 2)).toThrow('broken');
    const other = [runOf(4096, new Uint8Array(100).fill(3)), runOf(12288, new Uint8Array(5))];
    memory.writeBatch(other, other.length);
    expect((await ram.counters()).dmaWrites).toBe(2);
    expect(good.failure).toBeUndefined();
  });

  test('a kernel that gives no queue: all goes alone, which is told once and counted', async () => {
    const refusal = new SystemError('io_setup', 11);
    let asked = 0;
    await using bench = await sealedBench(MIB, {
      newQueue: () => {
        asked++;
        throw refusal;
      },
    });
    const { ram, memory } = bench;
    for (let round = 1; round <= 3; round++) {
      const runs = Array.from({ length: 20 }, (_, i) =>
        runOf(i * 5000 + 3, new Uint8Array(2000).fill(round * 20 + i)),
      );
      memory.writeBatch(runs, runs.length);
      const back = runs.map(({ address }) => runOf(address, new Uint8Array(2000)));
      memory.readBatch(back, back.length);
      for (const [i, { bytes }] of back.entries()) expect(bytes).toEqual(runs[i]?.bytes);
    }
    expect(asked).toBe(1);
    expect(bench.failures).toHaveLength(1);
    expect(bench.failures[0]).toMatch(/io_setup failed: EAGAIN.*aio-max-nr/);
    expect(ram.batchCounters).toEqual({
      ...{ goes: 6, scattered: 0, together: 0, alone: 120, fallbacks: 6 },
    });
  });

  test.each([
    ['pages under constant fire', 4, 0],
    ['many pages, with rests', 64, 2000],
  ])(
    'nothing is lost between two vCPUs and batches: %s',
    { timeout: 60_000 },
    async (_name, pages, pauseEvery) => {
      await using bench = await sealedBench(4 * MIB);
      const { memory, ram } = bench;
      const offset = MIB;
      const vcpuThreads = await twoVcpus({ path: ram.path, offset, pages, pauseEvery });
      let state = 815;
      const random = (below: number) => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return Math.floor((state / 2 ** 32) * below);
      };
      // The first half of each page is the device's own.
      const mine = Array.from({ length: pages }, () => new Uint8Array(PAGE / 2));
      /** Ranges that do not overlap, so that the model knows what is there; often neighbours. */
      const someRuns = () => {
        const runs: { page: number; at: number; run: MemoryRun }[] = [];
        for (let i = 1 + random(12); i > 0; i--) {
          const page = random(pages);
          for (let at = random(1500); at < PAGE / 2 - 1 && runs.length < 40; ) {
            const length = 1 + random(Math.min(700, PAGE / 2 - at));
            const taken = runs.some(
              (other) =>
                other.page === page && at < other.at + other.run.length && other.at < at + length,
            );
            if (taken) break;
            const address = offset + page * PAGE + at;
            runs.push({ page, at, run: runOf(address, new Uint8Array(length)) });
            at += length + (random(2) === 0 ? 0 : 1 + random(600));
          }
        }
        return runs;
      };
      let lost = 0;
      let batches = 0;
      for (const until = Date.now() + 6000; Date.now() < until; batches++) {
        const wanted = someRuns();
        const runs = wanted.map(({ run }) => run);
        if (random(2) === 0) {
          for (const { page, at, run } of wanted) {
            for (let i = 0; i < run.length; i++) run.bytes[i] = random(256);
            mine[page]?.set(run.bytes, at);
          }
          memory.writeBatch(runs, runs.length);
        } else {
          memory.readBatch(runs, runs.length);
          for (const { page, at, run } of wanted) {
            const own = mine[page]?.subarray(at, at + run.length);
            if (own === undefined || Buffer.compare(run.bytes, own) !== 0) lost++;
          }
        }
        expect(failures(runs).some((failed) => failed)).toBe(false);
      }
      const vcpus = await vcpuThreads.stop();
      expect(lost).toBe(0);
      expect(vcpus.map((vcpu) => vcpu.lost)).toEqual([0, 0]);
      // It proves nothing unless both sides were at it, and met.
      expect(Math.min(...vcpus.map((vcpu) => vcpu.stores))).toBeGreaterThan(1000);
      expect(batches).toBeGreaterThan(50);
      expect(ram.batchCounters.together).toBeGreaterThan(100);
      if (pauseEvery === 0) expect((await ram.counters()).dmaRetries).toBeGreaterThan(10);
    },
  );
});

describe.skipIf(missing !== undefined)('a controller that ends or stops under a batch', () => {
  test.each([
    [3, 'clean'],
    [20, 'clean'],
    [47, 'dirty'],
    [110, 'dirty'],
  ] as const)(
    'killed after %i ms, with %s pages: the batch ends, and what it did not do has failed',
    async (milliseconds, pages) => {
      const bench = await sealedBench(MIB);
      const { memory } = bench;
      const cpu = openSync(bench.ram.path, 'r+');
      const runs = Array.from({ length: 60 }, (_, i) =>
        runOf(i * 2 * PAGE + 100, new Uint8Array(PAGE)),
      );
      // Batches hold this thread, so somebody else has to send the signal.
      const killer = spawn('sh', [
        ...['-c', `read _; sleep ${milliseconds / 1000}; kill -9 ${bench.controller.pid}`],
      ]);
      const killed = once(killer, 'exit');
      killer.stdin.end('\n');
      let batches = 0;
      const end = Date.now() + 20_000;
      for (; Date.now() < end && !failures(runs).includes(true); batches++) {
        try {
          if (pages === 'dirty') {
            for (const { address } of runs) writeSync(cpu, Buffer.from([batches]), 0, 1, address);
          }
        } catch {
          // The file is gone: the batch has to see it too.
        }
        if (batches % 2 === 0) memory.writeBatch(runs, runs.length);
        else memory.readBatch(runs, runs.length);
      }
      expect(Date.now()).toBeLessThan(end);
      expect(runs.find(({ failure }) => failure !== undefined)?.failure).toBeInstanceOf(
        MemoryError,
      );
      // From here on everything fails, at once.
      memory.readBatch(runs, runs.length);
      expect(failures(runs)).toEqual(runs.map(() => true));
      expect(() => memory.read(gpa(0), SLOT, new Uint8Array(8))).toThrow(MemoryError);
      await killed;
      try {
        closeSync(cpu);
      } catch {
        // ENOTCONN: closed all the same.
      }
      for (let i = 0; i < 100 && bench.lost.length === 0; i++) await sleep(20);
      expect(bench.lost).toHaveLength(1);
      bench.ram.close();
      expect(detachStaleMount(bench.controller.directory)).toBe(true);
      await bench[Symbol.asyncDispose]();
    },
  );

  test('stopped for too long: the batch is given up, and does nothing when the controller goes on', async () => {
    const bench = await sealedBench(MIB, { answerMsMax: 300 });
    const { memory, ram, controller } = bench;
    const written = Array.from({ length: 10 }, (_, i) =>
      runOf(i * 2 * PAGE, new Uint8Array(PAGE).fill(1)),
    );
    memory.writeBatch(written, written.length);
    const before = ram.dram().slice();
    process.kill(controller.pid, 'SIGSTOP');
    const runs = written.map(({ address }) => runOf(address, new Uint8Array(PAGE).fill(2)));
    try {
      memory.writeBatch(runs, runs.length);
      expect(runs.map(({ failure }) => failure?.message)).toEqual(
        runs.map(() => expect.stringMatching(/answer, got no answer within 300 ms/)),
      );
      // Its requests are still under way: nothing else may be, and nothing waits.
      memory.readBatch(runs, runs.length);
      expect(failures(runs)).toEqual(runs.map(() => true));
      expect(() => memory.read(gpa(0), SLOT, new Uint8Array(8))).toThrow(/300 ms/);
      expect(() => memory.write(gpa(0), SLOT, new Uint8Array(8))).toThrow(/300 ms/);
    } finally {
      process.kill(controller.pid, 'SIGCONT');
    }
    const { dmaWrites } = await ram.counters(); // answered behind all that had waited
    expect(dmaWrites).toBe(10);
    expect(Buffer.compare(ram.dram(), before)).toBe(0);
    await bench[Symbol.asyncDispose]();
    expect(bench.lost).toEqual([]);
  });
});
