/** What of a VM's plaintext stays in the page cache once its keys are gone. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import { Edu } from '../../../src/devices/edu/edu.ts';
import {
  MAP_SHARED,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../../../src/ffi/libc.ts';
import { cachedPages } from '../../../src/ffi/page-cache.ts';
import { Machine } from '../../../src/machine/machine.ts';
import { Platform } from '../../../src/machine/platform.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureLibvfioUser } from '../../../src/setup/ensure-libvfio-user.ts';
import { noSealedRam } from './sealed-bench.ts';

const BYTES = 64 * 2 ** 20;
const CACHED = 8 * 2 ** 20;
const PAGE = 4096;

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
});

/** A VM without a VMM, of whose memory some was stored through a descriptor that stays open. */
async function storedTo() {
  const log: string[] = [];
  const platform = await Platform.create({ memory: 'sealed', log: (words) => log.push(words) });
  ends.push(platform);
  const parts = { libvfioUser: await ensureLibvfioUser() };
  const machine = await Machine.create({ platform, parts, memory: 'sealed', bytes: BYTES });
  ends.push(machine);
  const fd = openSync(machine.sealed?.path ?? '', 'r+');
  ends.push({
    [Symbol.asyncDispose]: async () => {
      try {
        closeSync(fd);
      } catch {
        // What is dirty is refused its write-back.
      }
    },
  });
  const stored = Buffer.alloc(CACHED, 'stored by a CPU.');
  writeSync(fd, stored, 0, stored.length, 0);
  const cached = () => cachedPages(fd, 0, BYTES);
  expect(cached()).toBe(CACHED / PAGE);
  return { machine, platform, fd, stored, cached, log };
}

async function until(holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    if (tries > 1000) throw new Error('expected it to become so within 10 s');
    await sleep(10);
  }
}

describe.skipIf(noSealedRam() !== undefined)('once the keys are gone', () => {
  test.each(['revoke', 'destroy'] as const)(
    'by %s, what nobody has mapped leaves the cache, and nothing comes back',
    async (how) => {
      const { machine, fd, cached, log } = await storedTo();
      await machine.keys[how](machine.slot);
      await until(() => cached() === 0);
      for (let at = 0; at < CACHED; at += CACHED / 8) {
        expect(() => readSync(fd, new Uint8Array(PAGE), 0, PAGE, at)).toThrow(/EIO/);
      }
      expect(log).toEqual([]);
    },
  );

  test('a page that somebody has mapped stays, for him', async () => {
    const { machine, fd, stored, cached } = await storedTo();
    const at = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4 * PAGE);
    const mapped = Buffer.from(
      viewOfAddress(at, PAGE).buffer,
      viewOfAddress(at, PAGE).byteOffset,
      PAGE,
    );
    expect(mapped.equals(stored.subarray(0, PAGE))).toBe(true);
    await machine.keys.revoke(machine.slot);
    await until(() => cached() < CACHED / PAGE / 2);
    expect(cached()).toBeGreaterThan(0);
    expect(mapped.equals(stored.subarray(0, PAGE))).toBe(true);
    munmap(at, PAGE);
  });

  test('a page that a VMM has mapped stays until that VMM has gone', async () => {
    const { machine, fd, cached, log } = await storedTo();
    const { server } = machine.plug(new Edu(), parseRequesterId('00:04.0'));
    const file = machine.sealed?.path ?? '';
    const vmm = await Vmm.connect(server.socketPath, { bytes: BYTES, file });
    ends.push(vmm);
    const at = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4 * PAGE);
    expect(viewOfAddress(at, PAGE)[0]).toBe('s'.charCodeAt(0));
    await machine.keys.revoke(machine.slot);
    await until(() => cached() < CACHED / PAGE / 2);
    munmap(at, PAGE);
    await sleep(100);
    expect(cached()).toBeGreaterThan(0);
    await vmm[Symbol.asyncDispose]();
    await until(() => cached() === 0);
    expect(log).toEqual([]);
  });

  test('while there are keys, a VMM that goes leaves the cache as it is', async () => {
    const { machine, platform, cached } = await storedTo();
    const { server } = machine.plug(new Edu(), parseRequesterId('00:04.0'));
    const file = machine.sealed?.path ?? '';
    const vmm = await Vmm.connect(server.socketPath, { bytes: BYTES, file });
    await vmm[Symbol.asyncDispose]();
    await until(() => !server.connected);
    await platform.keys.rotate(machine.slot);
    await platform.keys.rotated(machine.slot);
    expect(cached()).toBe(CACHED / PAGE);
  });

  test('as the VM is removed, what nobody has mapped has left the cache when that is over', async () => {
    const { machine, platform, fd, cached, log } = await storedTo();
    await machine[Symbol.asyncDispose]();
    expect(cached()).toBe(0);
    expect(() => readSync(fd, new Uint8Array(PAGE), 0, PAGE, 0)).toThrow(/EIO/);
    expect(platform.tenants.size).toBe(0);
    expect(log).toEqual([]);
  });

  test('of another slot of the VM, or of another VM, nothing is dropped', async () => {
    const { machine, platform, fd, stored, cached } = await storedTo();
    const parts = { libvfioUser: await ensureLibvfioUser() };
    const other = await Machine.create({ platform, parts, memory: 'sealed', bytes: BYTES });
    ends.push(other);
    const { keys } = machine;
    const more = await keys.generate(9 as typeof machine.slot, { vm: machine.vm });
    await keys.activate(more.slot);
    await keys.revoke(more.slot);
    await keys.revoke(other.slot);
    await other[Symbol.asyncDispose]();
    expect(cached()).toBe(CACHED / PAGE);
    const seen = Buffer.alloc(PAGE);
    readSync(fd, seen, 0, PAGE, 0);
    expect(seen.equals(stored.subarray(0, PAGE))).toBe(true);
  });
});
