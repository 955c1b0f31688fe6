import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  MAP_SHARED,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../../../src/ffi/libc.ts';
import { Iommu } from '../../../src/iommu/iommu.ts';
import { type AccessSlot, IN_CLEAR, keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { gpa, MemoryError, type MemoryRun } from '../../../src/memory/guest-memory.ts';
import type { SealedMemory } from '../../../src/memory/sealed-memory.ts';
import type { DmaAccess } from '../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { FourSlots } from '../../unit/iommu/bench-memory.ts';
import { noSealedRam, runOf, sealedBench } from './sealed-bench.ts';
import { twoVcpus } from './vcpus.ts';

const MIB = 1024 * 1024;
const PAGE = 4096;
const SLOT = keySlot(1);

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

function read(memory: SealedMemory, at: number, length: number, slot: AccessSlot): Buffer {
  const into = Buffer.alloc(length);
  memory.read(gpa(at), slot, into);
  return into;
}

/** Bytes that no encryption of anything else is likely to be. */
function pattern(length: number, seed: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, i) => (i * seed + (i >> 8)) & 0xff));
}

describe.skipIf(missing !== undefined)('private and shared pages', () => {
  test('a page that is shared is in DRAM in the clear, and one that is private again is not', async () => {
    await using bench = await sealedBench(MIB);
    const { ram, memory } = bench;
    const cpu = openSync(ram.path, 'r+');
    const content = pattern(2 * PAGE, 7);
    writeSync(cpu, content, 0, content.length, 4 * PAGE);
    const dram = () => Buffer.from(ram.dram().subarray(4 * PAGE, 6 * PAGE));
    await memory.share(gpa(4 * PAGE), 2 * PAGE, { keep: true });
    expect(dram().equals(content)).toBe(true);
    // What the CPU stores from here on comes to DRAM in the clear as well.
    writeSync(cpu, Buffer.from('stored later'), 0, 12, 4 * PAGE + 100);
    content.write('stored later', 100);
    await ram.flush();
    expect(dram().equals(content)).toBe(true);
    // A device that writes without a key writes what the CPU reads.
    memory.write(gpa(5 * PAGE), IN_CLEAR, Buffer.from('from a device'));
    content.write('from a device', PAGE);
    const seen = Buffer.alloc(2 * PAGE);
    readSync(cpu, seen, 0, seen.length, 4 * PAGE);
    expect(seen.equals(content)).toBe(true);

    await memory.unshare(gpa(4 * PAGE), 2 * PAGE, { keep: true });
    for (let at = 0; at < content.length; at += 16) {
      expect(dram().includes(content.subarray(at, at + 16))).toBe(false);
    }
    expect(read(memory, 4 * PAGE, 2 * PAGE, SLOT).equals(content)).toBe(true);
    expect((await ram.counters()).convertedPages).toBe(4);
    closeSync(cpu);
    expect(bench.failures).toEqual([]);
  });

  test.each([
    ['share', 'a private page'],
    ['unshare', 'a shared page'],
    ['unshare', 'a private page'],
    ['share', 'a shared page'],
  ] as const)(
    'content discarded (%s of %s): zeros for the CPU, for devices and in DRAM',
    async (step, from) => {
      await using bench = await sealedBench(MIB);
      const { ram, memory } = bench;
      const cpu = openSync(ram.path, 'r+');
      const range = [gpa(8 * PAGE), 2 * PAGE] as const;
      if (from === 'a shared page') await memory.share(...range, { keep: true });
      writeSync(cpu, pattern(4 * PAGE, 11), 0, 4 * PAGE, 7 * PAGE);
      await memory[step](...range, { keep: false });
      const slot = step === 'share' ? IN_CLEAR : SLOT;
      expect(read(memory, 8 * PAGE, 2 * PAGE, slot).every((byte) => byte === 0)).toBe(true);
      expect(
        ram
          .dram()
          .subarray(8 * PAGE, 10 * PAGE)
          .every((byte) => byte === 0),
      ).toBe(true);
      const seen = Buffer.alloc(4 * PAGE);
      readSync(cpu, seen, 0, seen.length, 7 * PAGE);
      const wanted = pattern(4 * PAGE, 11).fill(0, PAGE, 3 * PAGE);
      expect(seen.equals(wanted)).toBe(true);
      closeSync(cpu);
    },
  );

  test('an access of the other kind is done as SEV does it: noise and ciphertext', async () => {
    await using bench = await sealedBench(MIB);
    const { ram, memory } = bench;
    const content = pattern(PAGE, 13);
    memory.write(gpa(0), SLOT, content);
    memory.write(gpa(PAGE), SLOT, content);
    await memory.share(gpa(PAGE), PAGE, { keep: true });
    // A shared access to a private page: the ciphertext that is in DRAM.
    const ciphertext = Buffer.from(ram.dram().subarray(0, PAGE));
    expect(read(memory, 0, PAGE, IN_CLEAR).equals(ciphertext)).toBe(true);
    expect(ciphertext.equals(content)).toBe(false);
    // A private access to a shared page: plaintext decrypted. Encrypted again it is the plaintext.
    const noise = read(memory, PAGE, PAGE, SLOT);
    expect(noise.equals(content)).toBe(false);
    memory.write(gpa(PAGE), SLOT, noise);
    expect(read(memory, PAGE, PAGE, IN_CLEAR).equals(content)).toBe(true);
    // Writes of the other kind: their own way back, and noise for the page's own accesses.
    memory.write(gpa(64), IN_CLEAR, content.subarray(64, 128));
    expect(read(memory, 64, 64, IN_CLEAR).equals(content.subarray(64, 128))).toBe(true);
    expect(read(memory, 64, 64, SLOT).equals(content.subarray(64, 128))).toBe(false);
    expect(read(memory, 128, PAGE - 128, SLOT).equals(content.subarray(128))).toBe(true);
    memory.write(gpa(PAGE + 64), SLOT, content.subarray(0, 64));
    expect(read(memory, PAGE + 64, 64, SLOT).equals(content.subarray(0, 64))).toBe(true);
    expect(read(memory, PAGE + 64, 64, IN_CLEAR).equals(content.subarray(64, 128))).toBe(false);
    expect(read(memory, PAGE + 128, 500, IN_CLEAR).equals(content.subarray(128, 628))).toBe(true);
    // A private page that was never written takes a write in the clear for noise too.
    memory.write(gpa(9 * PAGE + 160), IN_CLEAR, content.subarray(0, 32));
    expect(read(memory, 9 * PAGE + 160, 32, SLOT).every((byte) => byte === 0)).toBe(false);
    expect(read(memory, 9 * PAGE, 160, SLOT).every((byte) => byte === 0)).toBe(true);
  });

  test('the IOMMU records each access that meets a page of the other kind once, and does it', async () => {
    await using bench = await sealedBench(MIB);
    const { memory } = bench;
    const rid = parseRequesterId('00:04.0');
    const iommu = new Iommu(new FourSlots());
    const table = iommu.hostDomain();
    table.map({ start: 0, bytes: 8 * PAGE });
    table.map({ start: 8 * PAGE, bytes: 8 * PAGE, address: gpa(0), slot: IN_CLEAR });
    const entry = { domain: table, vm: vmId(1), rights: 'read-write', slot: SLOT } as const;
    iommu.table.set(rid, entry);
    const port = iommu.port(rid, memory);
    port.busMaster = true;
    await memory.share(gpa(2 * PAGE), 2 * PAGE, { keep: true });
    /** Private pages at 0 to 1 and 4 to 7; seen in the clear from page 8 on. */
    const recorded = (act: () => void) => {
      const { total } = iommu.faults;
      act();
      return iommu.faults.since(total).map(({ reason, refused, slot, iova, length }) => ({
        ...{ reason, refused, slot, iova, length },
      }));
    };
    const bytes = new Uint8Array(2 * PAGE);
    expect(recorded(() => port.writeFrom(0, bytes))).toEqual([]);
    expect(recorded(() => port.writeFrom(10 * PAGE, bytes))).toEqual([]);
    const shared = { reason: 'page-is-shared', refused: false, slot: SLOT };
    expect(recorded(() => port.readInto(PAGE, bytes))).toEqual([
      { ...shared, iova: PAGE, length: 2 * PAGE },
    ]);
    expect(bytes.subarray(0, PAGE).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(PAGE).every((byte) => byte === 0)).toBe(false);
    const clear = { reason: 'page-is-private', refused: false, slot: undefined };
    expect(recorded(() => port.writeFrom(9 * PAGE, bytes))).toEqual([
      { ...clear, iova: 9 * PAGE, length: 2 * PAGE },
    ]);
    // In a batch only those that it is true of, whatever goes to memory with them.
    const at = (iova: number): DmaAccess => ({
      iova,
      bytes: new Uint8Array(PAGE),
      abort: undefined,
    });
    const batch = [at(0), at(PAGE), at(2 * PAGE), at(4 * PAGE), at(10 * PAGE), at(12 * PAGE)];
    expect(recorded(() => expect(port.readBatch(batch, batch.length)).toBe(0))).toEqual([
      { ...shared, iova: 2 * PAGE, length: PAGE },
      { ...clear, iova: 12 * PAGE, length: PAGE },
    ]);
    // A function whose entry has the C-bit clear does all in the clear.
    iommu.table.set(rid, { ...entry, slot: IN_CLEAR });
    expect(recorded(() => port.readInto(2 * PAGE, bytes))).toEqual([]);
    expect(recorded(() => port.readInto(0, bytes))).toMatchObject([clear]);
    // And one that is refused is recorded as that alone.
    iommu.table.set(rid, { ...entry, slot: keySlot(9) });
    expect(recorded(() => expect(() => port.readInto(2 * PAGE, bytes)).toThrow())).toMatchObject([
      { reason: 'slot-empty', refused: true },
    ]);
  });

  test('a slot that is revoked converts nothing whose content is to be kept, and shared pages stay', async () => {
    await using bench = await sealedBench(MIB);
    const { controller, memory, ram } = bench;
    const cpu = openSync(ram.path, 'r+');
    memory.write(gpa(0), SLOT, pattern(PAGE, 5));
    await memory.share(gpa(PAGE), PAGE, { keep: true });
    memory.write(gpa(PAGE), IN_CLEAR, pattern(PAGE, 3));
    await controller.keys.revoke(SLOT);
    const before = ram.dram().slice();
    await expect(memory.share(gpa(0), PAGE, { keep: true })).rejects.toThrow(MemoryError);
    await expect(memory.unshare(gpa(PAGE), PAGE, { keep: true })).rejects.toThrow(MemoryError);
    expect(ram.dram().slice()).toEqual(before);
    expect(read(memory, PAGE, PAGE, IN_CLEAR).equals(pattern(PAGE, 3))).toBe(true);
    const seen = Buffer.alloc(PAGE);
    expect(readSync(cpu, seen, 0, PAGE, PAGE)).toBe(PAGE);
    expect(seen.equals(pattern(PAGE, 3))).toBe(true);
    expect(() => readSync(cpu, seen, 0, PAGE, 0)).toThrow(/EIO/);
    await memory.share(gpa(0), PAGE, { keep: false });
    expect(read(memory, 0, PAGE, IN_CLEAR).every((byte) => byte === 0)).toBe(true);
    closeSync(cpu);
  });

  test('a rotation passes shared pages by, and what becomes private in it is under the new key', async () => {
    await using bench = await sealedBench(4 * MIB);
    const { controller, memory, ram } = bench;
    const content = pattern(4 * MIB, 17);
    memory.write(gpa(0), SLOT, content);
    await memory.share(gpa(MIB), MIB, { keep: true });
    const over = new Promise<string>((resolve) => {
      controller.keys.onRotation(({ state }) => {
        if (state === 'done' || state === 'ended') resolve(state);
      });
    });
    await controller.keys.rotate(SLOT);
    await controller.keys.pause(SLOT);
    await memory.unshare(gpa(MIB), MIB / 2, { keep: true });
    await memory.share(gpa(3 * MIB), MIB / 2, { keep: true });
    await controller.keys.resume(SLOT);
    expect(await over).toBe('done');
    const shared = (at: number) =>
      (at >= MIB * 1.5 && at < 2 * MIB) || (at >= 3 * MIB && at < 3.5 * MIB);
    for (let at = 0; at < 4 * MIB; at += MIB / 2) {
      const slot = shared(at) ? IN_CLEAR : SLOT;
      const wanted = content.subarray(at, at + MIB / 2);
      expect(read(memory, at, MIB / 2, slot).equals(wanted)).toBe(true);
    }
    expect((await ram.counters()).dramPages).toBe((3 * MIB) / PAGE);
  });

  test.each([
    ['no whole page', 100, PAGE],
    ['a part of one', 0, 100],
    ['nothing', 0, 0],
    ['beyond RAM', MIB - PAGE, 2 * PAGE],
  ])('%s cannot be shared', async (_what, at, length) => {
    await using bench = await sealedBench(MIB);
    await expect(bench.memory.share(gpa(at), length, { keep: true })).rejects.toThrow(RangeError);
    expect((await bench.ram.counters()).convertedPages).toBe(0);
  });

  test('whatever is stored, converted and accessed in its own way, all see the same bytes', async () => {
    const pages = 16;
    await using bench = await sealedBench(MIB);
    const { ram, memory } = bench;
    // Stores through a mapping, as a vCPU's: write(2) may put a whole page into the cache unseen.
    const fd = openSync(ram.path, 'r+');
    const cpuAt = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    closeSync(fd);
    const cpu = viewOfAddress(cpuAt, pages * PAGE);
    const model = new Uint8Array(pages * PAGE);
    const shared = new Array<boolean>(pages).fill(false);
    const step = fc.record({
      what: fc.constantFrom('store', 'load', 'dma-write', 'dma-read', 'convert'),
      page: fc.nat(pages - 1),
      pages: fc.integer({ min: 1, max: 4 }),
      begin: fc.nat(PAGE - 1),
      cut: fc.nat(PAGE - 1),
      fill: fc.nat(255),
      to: fc.constantFrom('share' as const, 'unshare' as const),
      keep: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        for (const one of steps) {
          const after = Math.min(one.page + one.pages, pages);
          const [first, end] = [one.page * PAGE, after * PAGE];
          if (one.what === 'convert') {
            await memory[one.to](gpa(first), end - first, { keep: one.keep });
            shared.fill(one.to === 'share', one.page, after);
            if (!one.keep) model.fill(0, first, end);
            continue;
          }
          const at = first + one.begin;
          const stop = Math.max(at + 1, end - one.cut);
          const bytes = Buffer.alloc(stop - at, one.fill);
          if (one.what === 'store') {
            cpu.set(bytes, at);
            model.set(bytes, at);
          } else if (one.what === 'load') {
            expect(Buffer.compare(cpu.subarray(at, stop), model.subarray(at, stop))).toBe(0);
          } else {
            // As a device with a translation a page: each piece through what its page is held under.
            const runs: MemoryRun[] = [];
            for (let part = at; part < stop; ) {
              const partEnd = Math.min(stop, (Math.floor(part / PAGE) + 1) * PAGE);
              const run = runOf(part, bytes.subarray(part - at, partEnd - at));
              if (shared[Math.floor(part / PAGE)]) run.slot = IN_CLEAR;
              runs.push(run);
              part = partEnd;
            }
            if (one.what === 'dma-write') {
              memory.writeBatch(runs, runs.length);
              model.set(bytes, at);
            } else {
              memory.readBatch(runs, runs.length);
              expect(Buffer.compare(bytes, model.subarray(at, stop))).toBe(0);
            }
            expect(runs.map(({ failure }) => failure)).toEqual(runs.map(() => undefined));
          }
        }
        await ram.flush();
        for (let page = 0; page < pages; page++) {
          const plain = model.subarray(page * PAGE, (page + 1) * PAGE);
          const held = ram.dram().subarray(page * PAGE, (page + 1) * PAGE);
          const zeros = plain.every((byte) => byte === 0);
          if (shared[page] || !zeros) expect(Buffer.compare(held, plain) === 0).toBe(shared[page]);
        }
      }),
      { numRuns: 60 },
    );
    munmap(cpuAt, pages * PAGE);
    expect(bench.failures).toEqual([]);
  });

  test.each([
    ['pages under constant fire', 4, 0, false],
    ['many pages, with rests', 64, 2000, false],
    ['while the slot is rotated, again and again', 64, 500, true],
  ])(
    'nothing is lost while pages that two vCPUs and a device use are converted: %s',
    { timeout: 60_000 },
    async (_name, pages, pauseEvery, rotated) => {
      await using bench = await sealedBench(4 * MIB);
      const { controller, memory, ram } = bench;
      const offset = MIB;
      const vcpuThreads = await twoVcpus({ path: ram.path, offset, pages, pauseEvery });
      let state = 99;
      const random = (below: number) => {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        return Math.floor((state / 2 ** 32) * below);
      };
      // The first half of each page is the device's own.
      const mine = Array.from({ length: pages }, () => new Uint8Array(PAGE / 2));
      const shared = new Array<boolean>(pages).fill(false);
      let lost = 0;
      let misheld = 0;
      let accesses = 0;
      let conversions = 0;
      let rotations = 0;
      const { keys } = controller;
      let again = Promise.resolve();
      const stop = keys.onRotation(({ state }) => {
        if (state !== 'done') return;
        rotations++;
        again = keys.rotate(SLOT).then(() => {});
      });
      if (rotated) await keys.rotate(SLOT);
      for (const until = Date.now() + 5000; Date.now() < until; ) {
        const page = random(pages);
        const own = mine[page] as Uint8Array;
        const address = gpa(offset + page * PAGE);
        if (random(3) === 0) {
          const to = random(2) === 0 ? 'share' : 'unshare';
          await memory[to](address, PAGE, { keep: true });
          shared[page] = to === 'share';
          // The event loop hears of rotations that have ended.
          if (conversions++ % 8 === 0) await nextTurn();
          continue;
        }
        const slot = shared[page] ? IN_CLEAR : SLOT;
        const at = random(PAGE / 2 - 1);
        const length = 1 + random(PAGE / 2 - at);
        const bytes = own.subarray(at, at + length);
        if (random(2) === 0) {
          for (let i = 0; i < length; i++) bytes[i] = random(256);
          memory.write(gpa(address + at), slot, bytes);
        } else if (!read(memory, address + at, length, slot).equals(bytes)) {
          lost++;
        }
        // DRAM has it in the clear if the page is shared, and at no moment if it is private.
        const held = Buffer.from(ram.dram().buffer, ram.dram().byteOffset + address + at, length);
        if (length >= 16 && held.equals(bytes) !== shared[page]) misheld++;
        accesses++;
      }
      stop();
      await again;
      if (rotated) expect(rotations).toBeGreaterThan(5);
      const vcpus = await vcpuThreads.stop();
      expect({ lost, misheld }).toEqual({ lost: 0, misheld: 0 });
      expect(vcpus.map((vcpu) => vcpu.lost)).toEqual([0, 0]);
      for (const { stores } of vcpus) expect(stores).toBeGreaterThan(1000);
      expect(conversions).toBeGreaterThan(50);
      expect(accesses).toBeGreaterThan(100);
      expect(bench.failures).toEqual([]);
    },
  );
});
