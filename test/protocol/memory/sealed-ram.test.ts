import { execFile, fork } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { close } from '../../../src/ffi/libc.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { detachStaleMount } from '../../../src/memory/fuse/fuse-mount.ts';
import { gpa, MemoryError } from '../../../src/memory/guest-memory.ts';
import { MemoryController } from '../../../src/memory/memory-controller.ts';
import { SealedRam } from '../../../src/memory/sealed-ram.ts';
import { DeviceHalf } from './device-half.ts';
import { noSealedRam, sealedBench } from './sealed-bench.ts';
import { twoVcpus } from './vcpus.ts';

const MIB = 1024 * 1024;
const SLOT = keySlot(1);
const here = fileURLToPath(new URL('.', import.meta.url));

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

function mountTable(): string {
  return readFileSync('/proc/self/mountinfo', 'utf8');
}

describe.skipIf(missing !== undefined)('sealed RAM', () => {
  test('the CPU and a DMA see the same bytes, whichever wrote them, anywhere', async () => {
    await using bench = await sealedBench(2 * MIB);
    const { ram, memory } = bench;
    const reference = new Uint8Array(ram.bytes);
    const cpu = openSync(ram.path, 'r+');
    const access = fc.record({
      by: fc.constantFrom('cpu-write', 'cpu-read', 'dma-write', 'dma-read'),
      at: fc.oneof(
        fc.integer({ min: 0, max: 2 * MIB - 1 }),
        fc.integer({ min: 0, max: 511 }).map((page) => page * 4096),
      ),
      data: fc.oneof(
        fc.uint8Array({ minLength: 1, maxLength: 40 }),
        fc.integer({ min: 1, max: 300_000 }).map((n) => new Uint8Array(n).fill(n & 0xff)),
      ),
    });
    fc.assert(
      fc.property(fc.array(access, { minLength: 1, maxLength: 20 }), (accesses) => {
        for (const { by, at, data } of accesses) {
          const bytes = data.subarray(0, Math.min(data.length, ram.bytes - at));
          const into = new Uint8Array(bytes.length);
          if (by === 'cpu-write') writeSync(cpu, bytes, 0, bytes.length, at);
          else if (by === 'dma-write') memory.write(gpa(at), SLOT, bytes);
          else if (by === 'cpu-read') readSync(cpu, into, 0, into.length, at);
          else memory.read(gpa(at), SLOT, into);
          if (by.endsWith('write')) reference.set(bytes, at);
          else {
            const wanted = reference.subarray(at, at + into.length);
            expect(Buffer.compare(into, wanted)).toBe(0);
          }
        }
      }),
      { numRuns: 60 },
    );
    closeSync(cpu);
    expect(bench.failures).toEqual([]);
  });

  test('what is stored is in DRAM as ciphertext only, and there at all', async () => {
    await using bench = await sealedBench(2 * MIB);
    const { ram, memory } = bench;
    const marker = Buffer.from('a marker that a guest keeps in memory, 48 bytes.');
    const page = Buffer.alloc(4096);
    for (let at = 0; at + marker.length <= page.length; at += marker.length) marker.copy(page, at);
    const cpu = openSync(ram.path, 'r+');
    for (let at = 0; at < MIB; at += 4096) writeSync(cpu, page, 0, 4096, at);
    closeSync(cpu);
    for (let at = MIB; at < 2 * MIB; at += 4096) memory.write(gpa(at), SLOT, page);
    await ram.flush();

    const dram = Buffer.from(ram.dram());
    expect((await ram.counters()).dramPages).toBe(512);
    expect(dram.includes(marker.subarray(0, 16))).toBe(false);
    // Equal plaintext pages: no 16-byte block of ciphertext may come twice.
    const blocks = new Set<string>();
    for (let at = 0; at < dram.length; at += 16) blocks.add(dram.toString('latin1', at, at + 16));
    expect(blocks.size).toBe(dram.length / 16);
    const through = new Uint8Array(4096);
    for (let at = 0; at < 2 * MIB; at += 4096) {
      memory.read(gpa(at), SLOT, through);
      expect(Buffer.compare(through, page)).toBe(0);
    }
  });

  test('a page that was never written is zeros, and costs no key', async () => {
    await using bench = await sealedBench(MIB);
    const into = new Uint8Array(8192).fill(9);
    bench.memory.read(gpa(5000), SLOT, into);
    expect(into.every((byte) => byte === 0)).toBe(true);
    bench.memory.write(gpa(5000), SLOT, new Uint8Array([1]));
    bench.memory.read(gpa(4096), SLOT, into);
    expect(into.indexOf(1)).toBe(5000 - 4096);
    expect(into.lastIndexOf(1)).toBe(5000 - 4096);
    expect((await bench.ram.counters()).dramPages).toBe(1);
  });

  test('only the VM’s own active slot opens it', async () => {
    await using bench = await sealedBench(MIB);
    const { controller, memory } = bench;
    await controller.generateKey(keySlot(2), vmId(2));
    memory.write(gpa(0), SLOT, new Uint8Array(64).fill(7));
    const before = bench.ram.dram().slice(0, 4096);
    for (const slot of [keySlot(2), keySlot(3)]) {
      const into = new Uint8Array(64).fill(0x5c);
      expect(() => memory.read(gpa(0), slot, into)).toThrow(MemoryError);
      expect(() => memory.write(gpa(0), slot, into)).toThrow(MemoryError);
      expect(into.every((byte) => byte === 0x5c)).toBe(true);
    }
    expect(bench.ram.dram().slice(0, 4096)).toEqual(before);
    await controller.keys.revoke(SLOT);
    expect(() => memory.read(gpa(0), SLOT, new Uint8Array(64))).toThrow(MemoryError);
    expect((await bench.ram.counters()).slotRefusals).toBeGreaterThanOrEqual(5);
  });

  test('the DMA port is one opener’s, and RAM keeps its size', async () => {
    await using bench = await sealedBench(MIB);
    const { O_DIRECT, O_RDWR } = (await import('node:fs')).constants;
    expect(() => openSync(bench.ram.path, O_RDWR | O_DIRECT)).toThrow(/EBUSY/);
    const { truncateSync } = await import('node:fs');
    expect(() => truncateSync(bench.ram.path, 4096)).toThrow(/EPERM/);
    expect(() => openSync(join(bench.directory, 'ram', 'other'), 'r')).toThrow(/ENOENT/);
  });

  test('DRAM is a file to other processes, which holds ciphertext and is there to be read alone', async () => {
    await using bench = await sealedBench(MIB);
    const { memory, ram } = bench;
    const secret = Buffer.alloc(4096, 'the same secret\n');
    memory.write(gpa(8192), SLOT, secret);
    const path = ram.dramPath ?? '';
    const { stdout } = await promisify(execFile)('cat', [path], {
      ...{ encoding: 'buffer', maxBuffer: 2 * MIB },
    });
    expect(stdout.equals(ram.dram())).toBe(true);
    expect(stdout.subarray(8192, 8192 + 4096).every((byte) => byte === 0)).toBe(false);
    expect(stdout.includes('secret')).toBe(false);
    expect(statSync(path).mode & 0o777).toBe(0o400);
    ram.close();
    expect(ram.dramPath).toBeUndefined();
    expect(readFileSync('/proc/self/maps', 'utf8')).not.toContain(`sealbus-dram-${ram.name}`);
    const open = readdirSync('/proc/self/fd').flatMap((fd) => {
      try {
        return [readlinkSync(`/proc/self/fd/${fd}`)];
      } catch {
        return []; // the directory's own
      }
    });
    expect(open.filter((file) => file.includes(`sealbus-dram-${ram.name}`))).toEqual([]);
  });

  test('closed, it does no DMA to whatever has its descriptor’s number, and DRAM is given back', async () => {
    await using bench = await sealedBench(MIB);
    const { memory, ram } = bench;
    memory.write(gpa(0), SLOT, new Uint8Array(4096).fill(1));
    const dram = ram.dram();
    expect(dram.some((byte) => byte !== 0)).toBe(true);
    ram.close();
    const other = join(bench.directory, 'other');
    const fds = Array.from({ length: 64 }, () => openSync(other, 'w+'));
    try {
      expect(() => memory.write(gpa(0), SLOT, new Uint8Array(4096).fill(2))).toThrow(/closed/);
      expect(() => memory.read(gpa(0), SLOT, new Uint8Array(4096))).toThrow(/closed/);
    } finally {
      for (const fd of fds) closeSync(fd);
    }
    expect(readFileSync(other)).toHaveLength(0);
    expect(dram.every((byte) => byte === 0)).toBe(true);
  });

  test.each([
    ['pages under constant fire', 2, 0],
    ['many pages, with rests', 64, 2000],
  ])(
    'nothing is lost between two vCPUs and a device: %s',
    { timeout: 60_000 },
    async (_name, pages, pauseEvery) => {
      await using bench = await sealedBench(4 * MIB);
      const { memory } = bench;
      const offset = MIB;
      const vcpuThreads = await twoVcpus({ path: bench.ram.path, offset, pages, pauseEvery });
      const device = new DeviceHalf(memory, SLOT, offset, pages);
      for (const until = Date.now() + 6000; Date.now() < until; ) device.access();
      const vcpus = await vcpuThreads.stop();
      expect(device.lost).toBe(0);
      expect(vcpus.map((vcpu) => vcpu.lost)).toEqual([0, 0]);
      // It proves nothing unless both sides were at it.
      expect(Math.min(...vcpus.map((vcpu) => vcpu.stores))).toBeGreaterThan(1000);
      expect(Math.min(device.writes, device.reads)).toBeGreaterThan(50);
    },
  );
});

describe.skipIf(missing !== undefined)('ends of the controller', () => {
  test('stopped in order it leaves no mount and no directory', async () => {
    const bench = await sealedBench(MIB);
    const directory = bench.controller.directory;
    expect(mountTable()).toContain(directory);
    await bench[Symbol.asyncDispose]();
    expect(mountTable()).not.toContain(directory);
    expect(existsSync(directory)).toBe(false);
    expect(bench.lost).toEqual([]);
  });

  test('killed, it is reported, accesses fail, and the stale mount goes', async () => {
    const bench = await sealedBench(MIB);
    const [mapped, another] = [openSync(bench.ram.path, 'r+'), openSync(bench.ram.path, 'r+')];
    process.kill(bench.controller.pid, 'SIGKILL');
    for (let i = 0; i < 100 && bench.lost.length === 0; i++) await sleep(20);
    expect(bench.lost).toHaveLength(1);
    // What holds a descriptor of the file, as who maps it for QEMU does, can still close it.
    expect(() => closeSync(mapped)).toThrow(/ENOTCONN/);
    expect(() => close(another)).not.toThrow();
    expect(() => close(another)).toThrow(/EBADF/);
    expect(() => bench.memory.read(gpa(0), SLOT, new Uint8Array(16))).toThrow(MemoryError);
    expect(() => bench.memory.write(gpa(0), SLOT, new Uint8Array(16))).toThrow(MemoryError);
    await expect(bench.ram.counters()).rejects.toThrow(MemoryError);
    bench.ram.close();
    expect(detachStaleMount(bench.controller.directory)).toBe(true);
    expect(detachStaleMount(bench.controller.directory)).toBe(false);
    rmSync(bench.directory, { recursive: true });
  });

  test('whoever started it is killed in the middle of its DMA: it unmounts and ends', async () => {
    const child = fork(join(here, 'dma-forever.ts'), {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    const [started] = (await once(child, 'message')) as [
      { directory: string; pid: number; parent: string },
    ];
    await sleep(100);
    child.kill('SIGKILL');
    for (let i = 0; i < 200 && mountTable().includes(started.directory); i++) await sleep(20);
    expect(mountTable()).not.toContain(started.directory);
    for (let i = 0; i < 200 && existsSync(`/proc/${started.pid}`); i++) await sleep(20);
    expect(existsSync(`/proc/${started.pid}`)).toBe(false);
    rmSync(started.parent, { recursive: true, force: true });
  });

  test('a directory that cannot be mounted on is refused in words', async () => {
    const bench = await sealedBench(MIB);
    try {
      await expect(
        SealedRam.create(bench.controller, {
          name: 'No/Such',
          vm: vmId(1),
          slot: SLOT,
          bytes: MIB,
        }),
      ).rejects.toThrow(/expected a RAM file's name/);
      await expect(
        SealedRam.create(bench.controller, { name: 'x', vm: vmId(1), slot: SLOT, bytes: 100 }),
      ).rejects.toThrow(RangeError);
      await expect(MemoryController.start({ directory: '/dev/null/ram' })).rejects.toThrow(
        /ENOTDIR/,
      );
    } finally {
      await bench[Symbol.asyncDispose]();
    }
  });
});
