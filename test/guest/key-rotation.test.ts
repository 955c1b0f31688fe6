/** A live guest whose key is rotated under it, again and again, and in the end revoked. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Edu } from '../../src/devices/edu/edu.ts';
import { Machine } from '../../src/machine/machine.ts';
import { parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { VirtualMachine } from '../../src/vm/virtual-machine.ts';
import { QemuEndedError } from '../../src/vm/vm-error.ts';
import { until } from '../protocol/cli/sealbus.ts';

const BYTES = 512 * 2 ** 20;
const RID = parseRequesterId('00:04.0');
const HAMMER_SECONDS = 8;
const FILE = '/tmp/lies-still';
const FILE_BYTES = 48 * 2 ** 20;
const timeoutMs = 120_000;

describe('a guest in sealed memory whose key slot', () => {
  let machine: Machine;
  let vm: VirtualMachine;

  beforeAll(async () => {
    const parts = await ensureParts();
    machine = await Machine.create({ parts, memory: 'sealed', bytes: BYTES });
    machine.plug(new Edu(), RID);
    vm = await machine.boot();
    await vm.insmod('sealbus_edu');
  });
  afterAll(async () => {
    await machine?.[Symbol.asyncDispose]();
  });

  const hammer = (seconds: number) =>
    vm.exec(['edu-hammer', '/dev/edu0', `${seconds}`, `${randomBytes(4).readUInt32LE()}`], {
      timeoutMs,
    });

  it('is rotated again and again loses nothing, of its CPU and of its device', async () => {
    const { keys, slot } = machine;
    // Something in memory that nobody touches meanwhile.
    await vm.check(['sh', '-c', `head -c ${FILE_BYTES} /dev/urandom > ${FILE}`], { timeoutMs });
    const digest = await vm.check(['sha256sum', FILE], { timeoutMs });
    await machine.sealed?.flush();
    let isOver = false;
    const hammered = hammer(HAMMER_SECONDS).finally(() => {
      isOver = true;
    });
    let rotations = 0;
    let movedPages = 0;
    while (!isOver) {
      await keys.rotate(slot);
      rotations++;
      // Every other one stands still for a moment, with both keys in use.
      if (rotations % 2 === 0) {
        const paused = await keys.pause(slot).catch(() => undefined);
        await sleep(20);
        if (paused !== undefined) await keys.resume(slot);
      }
      ({ movedPages } = await keys.rotated(slot));
    }
    const { exitCode, stdout, stderr } = await hammered;
    expect(`${stdout}${stderr}`).toMatch(/transfers [1-9].* cpu-rounds [1-9].* lost 0\n$/);
    expect(exitCode).toBe(0);
    expect(rotations).toBeGreaterThan(2);
    expect(movedPages * 4096).toBeGreaterThan(FILE_BYTES);
    expect(await vm.check(['sha256sum', FILE], { timeoutMs })).toBe(digest);
    expect(keys.describe(slot)).toMatchObject({ state: 'active', generation: rotations + 1 });
    expect(machine.iommu.faults.records).toEqual([]);
    expect(await vm.check(['dmesg'])).not.toMatch(/BUG|Oops|segfault|Kernel panic/);
  });

  it('is revoked does no DMA any more, in the middle of one it does or not, and ends at its first cache miss', async () => {
    const { keys, slot, iommu } = machine;
    const hammered = hammer(60).catch((error: unknown) => error);
    await sleep(1000);
    const { generation } = await keys.rotate(slot);
    expect(await keys.revoke(slot)).toMatchObject({ state: 'revoked', generation });
    await until(() => iommu.faults.total > 0, timeoutMs, 'a DMA that is refused');
    expect(iommu.faults.records[0]).toMatchObject({
      ...{ rid: RID, reason: 'slot-not-active' },
      ...{ vm: machine.vm, slot, generation },
    });
    // Memory that it has not touched yet: QEMU gets SIGBUS there.
    const grown = vm.check(['sh', '-c', 'head -c 300000000 /dev/zero > /tmp/more'], { timeoutMs });
    await expect(grown).rejects.toThrow(QemuEndedError);
    await expect(vm.check(['true'])).rejects.toThrow(/SIGBUS/);
    await hammered;
    expect(keys.describe(slot)).toMatchObject({ state: 'revoked', generation });
  });
});
