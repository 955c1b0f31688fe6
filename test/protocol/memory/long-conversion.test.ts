/** Conversions of many turns of the event loop, and what may come between two of them. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { type AccessSlot, IN_CLEAR, keySlot } from '../../../src/keys/key-slot.ts';
import { gpa, MemoryError } from '../../../src/memory/guest-memory.ts';
import { ConversionError } from '../../../src/memory/page-conversion.ts';
import type { SealedMemory } from '../../../src/memory/sealed-memory.ts';
import { CHUNK_BYTES } from '../../../src/memory/sealed-port.ts';
import { noSealedRam, sealedBench } from './sealed-bench.ts';

const MIB = 2 ** 20;
const BYTES = 16 * MIB;
const SLOT = keySlot(1);

/** Never the same in two blocks of 16 bytes, and no zeros. */
const content = Buffer.alloc(BYTES);
for (let at = 0; at < BYTES; at += 4) content.writeUInt32LE((at * 2654435761 + 1) >>> 0 || 1, at);

function read(memory: SealedMemory, at: number, length: number, slot: AccessSlot): Buffer {
  const into = Buffer.alloc(length);
  memory.read(gpa(at), slot, into);
  return into;
}

async function filled() {
  const bench = await sealedBench(BYTES);
  bench.memory.write(gpa(0), SLOT, content);
  const held = () => Buffer.from(bench.ram.dram());
  /** Bytes from the beginning on that DRAM has in the clear; what follows is nowhere so. */
  const clear = (): number => {
    const dram = held();
    let at = 0;
    while (at < BYTES && dram.compare(content, at, at + CHUNK_BYTES, at, at + CHUNK_BYTES) === 0)
      at += CHUNK_BYTES;
    for (let rest = at; rest < BYTES; rest += 4096) {
      const page = content.subarray(rest, rest + 4096);
      expect(dram.subarray(rest, rest + 4096).equals(page)).toBe(false);
    }
    return at;
  };
  /** Until the first of them are shared. */
  const begun = async () => {
    while (bench.ram.sharedBytes === 0) await nextTurn();
  };
  return { bench, clear, held, begun };
}

describe.skipIf(noSealedRam() !== undefined)('between two turns of a conversion', () => {
  test('another one of the same pages waits for its end, and has the last word on all of them', async () => {
    const { bench, clear } = await filled();
    await using _ = bench;
    const { memory } = bench;
    const sharing = memory.share(gpa(0), BYTES, { keep: true });
    // Further on than the first one is: it would be overtaken there.
    const later = memory.unshare(gpa(BYTES / 2), BYTES / 2, { keep: true });
    await Promise.all([sharing, later]);
    expect(clear()).toBe(BYTES / 2);
    expect([...memory.sharedRanges()]).toEqual([{ address: 0, bytes: BYTES / 2 }]);
    expect(read(memory, 0, BYTES / 2, IN_CLEAR).equals(content.subarray(0, BYTES / 2))).toBe(true);
    expect(read(memory, BYTES / 2, BYTES / 2, SLOT).equals(content.subarray(BYTES / 2))).toBe(true);
    expect((await bench.ram.counters()).convertedPages).toBe((1.5 * BYTES) / 4096);
  });

  test('rotations begin, sweep and end: all content is there, under the new key or in the clear', async () => {
    const { bench, clear } = await filled();
    await using _ = bench;
    const { keys, memory } = bench;
    let rotations = 0;
    let over = false;
    const rotating = (async () => {
      for (; !over; rotations++) {
        await keys.rotate(SLOT);
        await keys.rotated(SLOT);
      }
    })();
    for (let round = 0; round < 2 || rotations < 6; round++) {
      await memory.share(gpa(0), BYTES, { keep: true });
      expect(read(memory, 0, BYTES, IN_CLEAR).equals(content)).toBe(true);
      expect(clear()).toBe(BYTES);
      await memory.unshare(gpa(0), BYTES, { keep: true });
      expect(read(memory, 0, BYTES, SLOT).equals(content)).toBe(true);
      expect(clear()).toBe(0);
    }
    over = true;
    await rotating;
    // Nothing was left behind under a key that is gone.
    expect(read(memory, 0, BYTES, SLOT).equals(content)).toBe(true);
    expect(bench.failures).toEqual([]);
  });

  test.each(['revoke', 'destroy'] as const)(
    'the slot goes (%s): what was shared by then stays, nothing more is decrypted, and it says how far it came',
    async (how) => {
      const { bench, clear, held, begun } = await filled();
      await using _ = bench;
      const { keys, memory } = bench;
      const converting = memory.share(gpa(0), BYTES, { keep: true }).catch((error) => error);
      await begun();
      await keys[how](SLOT);
      const then = clear();
      const before = held();
      const error: unknown = await converting;
      expect(error).toBeInstanceOf(ConversionError);
      expect(error).toBeInstanceOf(MemoryError);
      const { converted } = error as ConversionError;
      expect(converted).toBe(then);
      expect(converted).toBeGreaterThan(0);
      expect(converted).toBeLessThan(BYTES);
      expect((error as Error).message).toContain(`${converted} of ${BYTES} bytes were converted`);
      expect(held().equals(before)).toBe(true);
      expect([...memory.sharedRanges()]).toEqual([{ address: 0, bytes: converted }]);
      expect(read(memory, 0, converted, IN_CLEAR).equals(content.subarray(0, converted))).toBe(
        true,
      );
    },
  );

  test('the memory goes: the conversion stops, and says how far it came', async () => {
    const { bench, begun } = await filled();
    await using _ = bench;
    const { keys, memory, ram, failures } = bench;
    const discarding = memory.share(gpa(0), BYTES, { keep: false }).catch((error) => error);
    await begun();
    const gone = Promise.all([keys.destroy(SLOT), ram.remove()]);
    const error: unknown = await discarding;
    await gone;
    expect(error).toBeInstanceOf(ConversionError);
    expect((error as ConversionError).converted).toBeGreaterThan(0);
    await expect(memory.share(gpa(0), 4096, { keep: false })).rejects.toThrow(/closed|gone|end/);
    expect(failures).toEqual([]);
  });

  test('the VMM takes its memory away: what is left of the range is not converted', async () => {
    const { bench, clear, begun } = await filled();
    await using _ = bench;
    const { memory } = bench;
    const converting = memory.share(gpa(0), BYTES, { keep: true }).catch((error) => error);
    await begun();
    memory.regions.clear();
    const error: unknown = await converting;
    expect(error).toBeInstanceOf(ConversionError);
    expect((error as Error).message).toMatch(/address in guest RAM/);
    expect((error as ConversionError).converted).toBe(clear());
    // One that waited meanwhile is told that there is no such memory, and converts nothing.
    await expect(memory.unshare(gpa(0), BYTES, { keep: true })).rejects.toThrow(RangeError);
  });
});
