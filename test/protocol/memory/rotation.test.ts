import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { keySlot } from '../../../src/keys/key-slot.ts';
import type { RotationProgress } from '../../../src/keys/slot-keeper.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { detachStaleMount } from '../../../src/memory/fuse/fuse-mount.ts';
import { gpa, MemoryError } from '../../../src/memory/guest-memory.ts';
import { SealedRam } from '../../../src/memory/sealed-ram.ts';
import { DeviceHalf } from './device-half.ts';
import { noSealedRam, type SealedBench, sealedBench } from './sealed-bench.ts';
import { twoVcpus } from './vcpus.ts';

const MIB = 1024 * 1024;
const SLOT = keySlot(1);
const SECOND = keySlot(2);
const VM = vmId(1);

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

/** Begins a rotation and has it stand still with some pages moved and some not; tries until that comes about. */
async function halfRotated({ keys }: SealedBench): Promise<RotationProgress> {
  for (let tries = 0; tries < 100; tries++) {
    if (keys.describe(SLOT).state === 'active') await keys.rotate(SLOT);
    else await keys.resume(SLOT);
    // Refused where it is over already.
    const progress = await keys.pause(SLOT).catch(() => undefined);
    if (progress !== undefined && progress.movedPages > 0) return progress;
  }
  throw new Error('expected a rotation that stands still half done, got none in 100 tries');
}

/** The 16-byte blocks of a DRAM. */
function blocksOf(bytes: Uint8Array): string[] {
  const dram = Buffer.from(bytes);
  return Array.from({ length: dram.length / 16 }, (_, block) =>
    dram.toString('latin1', block * 16, block * 16 + 16),
  );
}

/** Blocks of both that are equal, wherever they are, but for those of pages that nobody wrote. */
function equalBlocks(one: Uint8Array, other: Uint8Array): number {
  const zeros = '\0'.repeat(16);
  const seen = new Set(blocksOf(one));
  return blocksOf(other).filter((block) => block !== zeros && seen.has(block)).length;
}

function fill(bench: SealedBench, byte: number, ram = bench.ram): void {
  const cpu = openSync(ram.path, 'r+');
  const chunk = Buffer.alloc(MIB / 4, byte);
  for (let at = 0; at < ram.bytes; at += chunk.length) writeSync(cpu, chunk, 0, chunk.length, at);
  closeSync(cpu);
}

/** How many bytes of all memory are not `byte`, as a device finds them. */
function others(bench: SealedBench, byte: number, slot = SLOT): number {
  const into = new Uint8Array(MIB / 4);
  let count = 0;
  for (let at = 0; at < bench.ram.bytes; at += into.length) {
    bench.memory.read(gpa(at), slot, into);
    count += into.reduce((sum, each) => (each === byte ? sum : sum + 1), 0);
  }
  return count;
}

describe.skipIf(missing !== undefined)('a rotation', () => {
  test('moves all of DRAM to the new key: what is stored stays, and no block of ciphertext does', async () => {
    await using bench = await sealedBench(8 * MIB);
    const { ram, keys } = bench;
    fill(bench, 7);
    await ram.flush();
    const before = ram.dram().slice();
    const words: RotationProgress[] = [];
    keys.onRotation((progress) => words.push(progress));
    expect(await keys.rotate(SLOT)).toMatchObject({ state: 'rotating', generation: 2 });
    const end = await keys.rotated(SLOT);
    const pages = (8 * MIB) / 4096;
    expect(end).toMatchObject({
      ...{ slot: SLOT, generation: 2, state: 'done' },
      ...{ pages, passedPages: pages, movedPages: pages },
    });
    expect(words.at(0)).toMatchObject({ state: 'running', passedPages: 0 });
    expect(words.at(-1)).toEqual(end);
    expect(keys.describe(SLOT)).toMatchObject({ state: 'active', generation: 2 });
    expect(equalBlocks(before, ram.dram())).toBe(0);
    // Equal pages are as different under the new key as they were under the old one.
    expect(new Set(blocksOf(ram.dram())).size).toBe((8 * MIB) / 16);
    expect(others(bench, 7)).toBe(0);
    expect(bench.failures).toEqual([]);
  });

  test('of one VM changes nothing of another, and the same content is nowhere the same under both', async () => {
    await using bench = await sealedBench(4 * MIB);
    const { controller, keys, ram } = bench;
    await keys.generate(SECOND, { vm: vmId(2) });
    await keys.activate(SECOND);
    const about = { name: 'vm2', vm: vmId(2), slot: SECOND, bytes: 4 * MIB };
    const other = await SealedRam.create(controller, about);
    try {
      for (const each of [ram, other]) fill(bench, 9, each);
      for (const each of [ram, other]) await each.flush();
      expect((await other.counters()).dramPages).toBe(1024);
      expect(equalBlocks(ram.dram(), other.dram())).toBe(0);
      const before = [ram.dram().slice(), other.dram().slice()] as const;
      await keys.rotate(SLOT);
      await keys.rotated(SLOT);
      expect(equalBlocks(before[0], ram.dram())).toBe(0);
      expect(Buffer.compare(before[1], other.dram())).toBe(0);
      expect(equalBlocks(ram.dram(), other.dram())).toBe(0);
    } finally {
      other.close();
    }
  });

  test.each([
    ['pages under constant fire', 2, 0],
    ['many pages, with rests', 64, 2000],
  ])(
    'loses nothing of two vCPUs and a device, again and again: %s',
    { timeout: 60_000 },
    async (_name, pages, pauseEvery) => {
      await using bench = await sealedBench(16 * MIB);
      const { keys, memory, ram } = bench;
      // More than the torture has, so that it takes its time.
      fill(bench, 1);
      await ram.flush();
      const offset = MIB;
      memory.write(gpa(offset), SLOT, new Uint8Array(pages * 4096));
      const vcpuThreads = await twoVcpus({ path: ram.path, offset, pages, pauseEvery });
      const device = new DeviceHalf(memory, SLOT, offset, pages);
      let rotations = 0;
      let during = 0;
      for (const until = Date.now() + 6000; Date.now() < until; ) {
        if (keys.describe(SLOT).state === 'active') {
          await keys.rotate(SLOT);
          rotations++;
        }
        // Every third stands still for a while, half done.
        const pauses = rotations % 3 === 0;
        if (pauses) await keys.pause(SLOT).catch(() => {});
        for (let i = 0; i < 10; i++) device.access();
        if (keys.describe(SLOT).state === 'rotating') during += 10;
        if (pauses) await keys.resume(SLOT).catch(() => {});
        await turn();
      }
      if (keys.describe(SLOT).state === 'rotating') await keys.rotated(SLOT);
      const vcpus = await vcpuThreads.stop();
      expect(device.lost).toBe(0);
      expect(vcpus.map(({ lost }) => lost)).toEqual([0, 0]);
      expect(bench.failures).toEqual([]);
      // It proves nothing unless all were at it together.
      expect(keys.describe(SLOT).generation).toBe(rotations + 1);
      expect(rotations).toBeGreaterThan(5);
      expect(during).toBeGreaterThan(50);
      expect(Math.min(...vcpus.map(({ stores }) => stores))).toBeGreaterThan(1000);
      expect(Math.min(device.writes, device.reads)).toBeGreaterThan(50);
    },
  );

  test('that stands still serves under both keys, for a CPU and a device, whole pages and parts of them', async () => {
    await using bench = await sealedBench(16 * MIB);
    const { keys, memory, ram } = bench;
    fill(bench, 3);
    await ram.flush();
    const progress = await halfRotated(bench);
    expect(progress.passedPages).toBeLessThan(progress.pages);
    expect(others(bench, 3)).toBe(0);
    const reference = Buffer.alloc(16 * MIB, 3);
    const cpu = openSync(ram.path, 'r+');
    for (let at = 1000; at + 509_100 < ram.bytes; at += MIB + 4321) {
      const bytes = Buffer.alloc(100 + (at % 9000), at & 0xff);
      memory.write(gpa(at), SLOT, bytes);
      bytes.copy(reference, at);
      writeSync(cpu, bytes, 0, 100, at + 500_000);
      bytes.copy(reference, at + 500_000, 0, 100);
    }
    closeSync(cpu);
    const seen = Buffer.alloc(16 * MIB);
    for (const when of ['half done', 'done']) {
      for (let at = 0; at < seen.length; at += MIB) {
        memory.read(gpa(at), SLOT, seen.subarray(at, at + MIB));
      }
      expect(Buffer.compare(seen, reference), when).toBe(0);
      if (when === 'done') break;
      expect(await keys.resume(SLOT)).toMatchObject({ state: 'running' });
      await keys.rotated(SLOT);
    }
  });

  test('leaves what a device wrote under another slot of the VM, and that slot’s rotation moves it', async () => {
    await using bench = await sealedBench(MIB);
    const { keys, memory, ram } = bench;
    await keys.generate(SECOND, { vm: VM });
    await keys.activate(SECOND);
    memory.write(gpa(0), SLOT, new Uint8Array(8192).fill(5));
    const mark = new Uint8Array(160).fill(8);
    memory.write(gpa(4096 + 64), SECOND, mark);
    const stored = () => {
      const into = new Uint8Array(160);
      memory.read(gpa(4096 + 64), SECOND, into);
      return into;
    };
    for (const slot of [SLOT, SECOND]) {
      const before = ram.dram().slice(0, 8192);
      await keys.rotate(slot);
      await keys.rotated(slot);
      expect(stored()).toEqual(mark);
      const isSeconds = (block: number) => block >= 256 + 4 && block < 256 + 14;
      const now = blocksOf(ram.dram().subarray(0, 8192));
      const moved = blocksOf(before).map((block, index) => block !== now[index]);
      expect(moved).toEqual(moved.map((_, index) => isSeconds(index) === (slot === SECOND)));
    }
    const own = new Uint8Array(64);
    memory.read(gpa(4096), SLOT, own);
    expect(own).toEqual(new Uint8Array(64).fill(5));
  });

  test('is one at a time of a slot, and each word of it is refused where there is none', async () => {
    await using bench = await sealedBench(8 * MIB);
    const { keys, controller } = bench;
    fill(bench, 1);
    await bench.ram.flush();
    await expect(keys.pause(SLOT)).rejects.toThrow(/being rotated, got one that is active/);
    await expect(controller.keys.rotate(keySlot(9))).rejects.toThrow(
      /generate or load a key first/,
    );
    const { generation } = await halfRotated(bench);
    await expect(keys.rotate(SLOT)).rejects.toThrow(/rotating: wait for the end of the rotation/);
    // The controller itself says so too, whoever asks it.
    await expect(controller.keys.rotate(SLOT)).rejects.toThrow(/wait for the end of the rotation/);
    expect(keys.describe(SLOT)).toMatchObject({ state: 'rotating', generation });
    await keys.resume(SLOT);
    await keys.rotated(SLOT);
    await expect(keys.resume(SLOT)).rejects.toThrow(/being rotated, got one that is active/);
  });

  test('takes no notice of a device’s process that gives up the memory, nor of memory that comes', async () => {
    await using bench = await sealedBench(16 * MIB);
    const { keys, controller, ram } = bench;
    fill(bench, 1);
    await ram.flush();
    const progress = await halfRotated(bench);
    const about = { name: 'more', vm: VM, slot: SLOT, bytes: MIB };
    const more = await SealedRam.create(controller, about);
    const cpu = openSync(more.path, 'r+');
    writeSync(cpu, Buffer.alloc(4096, 6), 0, 4096, 8192);
    ram.close();
    await keys.resume(SLOT);
    expect(await keys.rotated(SLOT)).toMatchObject({ pages: progress.pages, movedPages: 4096 });
    await more.flush();
    const into = Buffer.alloc(4096);
    readSync(cpu, into, 0, 4096, 8192);
    expect(into.every((byte) => byte === 6)).toBe(true);
    closeSync(cpu);
    more.close();
  });
});

describe.skipIf(missing !== undefined)('a slot that is taken away', () => {
  test.each(['revoke', 'destroy'] as const)(
    '%s, in the middle of a rotation: no DMA, no fill, no write-back, and both keys are gone',
    async (how) => {
      await using bench = await sealedBench(16 * MIB);
      const { keys, memory, ram } = bench;
      fill(bench, 3);
      await ram.flush();
      // The device's last word on this page: it is out of the CPU's cache.
      memory.write(gpa(8 * MIB), SLOT, new Uint8Array(4096).fill(3));
      const { generation } = await halfRotated(bench);
      const over = keys.rotated(SLOT);
      const state = how === 'revoke' ? 'revoked' : 'empty';
      const [, done] = await Promise.all([
        expect(over).rejects.toThrow(
          /expected the rotation to generation \d+ to be done, got the end/,
        ),
        keys[how](SLOT),
      ]);
      expect(done).toMatchObject({ state, generation });
      expect(keys.describe(SLOT)).toMatchObject({ state, generation });
      expect(keys.rotation(SLOT)).toMatchObject({ state: 'ended' });
      const into = new Uint8Array(64).fill(0x5c);
      const before = ram.dram().slice(0, 8192);
      expect(() => memory.read(gpa(0), SLOT, into)).toThrow(MemoryError);
      expect(() => memory.write(gpa(0), SLOT, into)).toThrow(MemoryError);
      expect(into.every((byte) => byte === 0x5c)).toBe(true);
      expect(Buffer.compare(ram.dram().subarray(0, 8192), before)).toBe(0);
      // A load that misses the CPU's cache: what is an error here is SIGBUS to who has it mapped.
      const cpu = openSync(ram.path, 'r+');
      expect(() => readSync(cpu, Buffer.alloc(4096), 0, 4096, 8 * MIB)).toThrow(/EIO/);
      closeSync(cpu);
      expect((await ram.counters()).slotRefusals).toBeGreaterThanOrEqual(3);
      await expect(keys.resume(SLOT)).rejects.toThrow(/expected a slot that is being rotated/);
      if (how === 'revoke') await keys.destroy(SLOT);
      // A new key in the same slot opens nothing of it.
      await keys.generate(SLOT, { vm: VM });
      expect(await keys.activate(SLOT)).toMatchObject({
        ...{ state: 'active', generation: generation + 1 },
      });
      expect(others(bench, 3)).toBeGreaterThan(16 * MIB * 0.99);
    },
  );

  test('a controller that is killed ends its rotations, and who waits for one hears it', async () => {
    const bench = await sealedBench(16 * MIB);
    fill(bench, 1);
    await halfRotated(bench);
    const over = bench.keys.rotated(SLOT);
    process.kill(bench.controller.pid, 'SIGKILL');
    await expect(over).rejects.toThrow(/got the end of its keys/);
    expect(bench.keys.describe(SLOT).state).toBe('revoked');
    await expect(bench.keys.destroy(SLOT)).rejects.toThrow(MemoryError);
    for (let i = 0; i < 100 && bench.lost.length === 0; i++) await sleep(20);
    expect(detachStaleMount(bench.controller.directory)).toBe(true);
    await bench[Symbol.asyncDispose]();
  });
});
