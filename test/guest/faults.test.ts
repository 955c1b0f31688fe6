/**
 * Faults on demand, as drivers in a real guest meet them: ours for edu, and Linux's own for NVMe, in one
 * guest. What a driver should do with each of them is the driver's; here it must neither hang nor believe
 * what it should not.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Edu, type EduOptions } from '../../src/devices/edu/edu.ts';
import { Nvme } from '../../src/devices/nvme/nvme.ts';
import { FaultPlan } from '../../src/faults/index.ts';
import { Machine } from '../../src/machine/machine.ts';
import { parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { BlockStorage } from '../../src/storage/block-storage.ts';
import { openStorage } from '../../src/storage/open-storage.ts';
import type { VirtualMachine } from '../../src/vm/virtual-machine.ts';

const MIB = 2 ** 20;
const EDU = parseRequesterId('00:05.0');
const DISK = parseRequesterId('00:06.0');
const EDU_TIMEOUT_MS = 500;
const NVME_TIMEOUT_SECONDS = 2;

/** As its specification has it, edu is no Express function; this one the kernel can reset by itself. */
const EduConstructor: new (options: EduOptions) => Edu = Edu;
class ResettableEdu extends EduConstructor {
  static readonly express = true;
}

const directory = mkdtempSync(join(tmpdir(), 'sealbus-faults-'));
const content = randomBytes(MIB);
const plan = new FaultPlan({ seed: 1 });
const edu = new ResettableEdu({ dmaMask: (1n << 64n) - 1n });
let machine: Machine;
let storage: BlockStorage;
let vm: VirtualMachine;

beforeAll(async () => {
  const path = join(directory, 'disk.img');
  writeFileSync(path, content);
  storage = await openStorage(path, { readOnly: false, log: () => undefined });
  const parts = await ensureParts();
  machine = await Machine.create({
    ...{ parts, memory: 'plain', bytes: 512 * MIB, log: () => undefined },
    instruments: [plan],
  });
  machine.plug(edu, EDU);
  machine.plug(new Nvme({ namespaces: [{ storage }], doorbells: 'message' }), DISK);
  vm = await machine.boot({
    cpus: 2,
    kernelArguments: [`nvme_core.io_timeout=${NVME_TIMEOUT_SECONDS}`],
  });
  await vm.insmod('sealbus_edu', { timeout_ms: `${EDU_TIMEOUT_MS}` });
});
afterEach(() => plan.disarmAll());
afterAll(async () => {
  await machine?.[Symbol.asyncDispose]();
  await storage?.close();
  rmSync(directory, { recursive: true, force: true });
});

const sysfs = '/sys/bus/pci/devices/0000:00:05.0';
const sh = (script: string, options = {}) => vm.exec(['sh', '-c', script], options);
const kernelLog = async () => (await vm.check(['dmesg'])).split('\n');

/** What it says while that runs. */
async function logOf(run: () => Promise<void>): Promise<string> {
  const before = (await kernelLog()).length;
  await run();
  return (await kernelLog()).slice(before - 1).join('\n');
}

describe('the edu driver', () => {
  const factorial = (n: number) => sh(`echo ${n} > ${sysfs}/factorial && cat ${sysfs}/factorial`);
  const toDevice = (bytes: Uint8Array) =>
    sh('dd of=/dev/edu0 bs=4096 conv=notrunc', { stdin: bytes });

  const reset = () => vm.check(['sh', '-c', `echo 1 > ${sysfs}/reset`]);

  it('reports a time-out where the interrupt is lost, and works on', async () => {
    plan.arm('interrupt.lose', { nth: 1, rid: EDU });
    const { exitCode, stderr } = await factorial(5);
    expect([exitCode, `${stderr}`]).toEqual([1, expect.stringMatching(/timed out/)]);
    expect(`${(await factorial(5)).stdout}`).toBe('120\n');
  });

  it('has lost nothing but time where the interrupt of a DMA is', async () => {
    const bytes = randomBytes(100);
    plan.arm('interrupt.lose', { nth: 1, rid: EDU });
    const log = await logOf(async () => expect((await toDevice(bytes)).exitCode).toBe(0));
    expect(log).toMatch(/interrupt of a DMA of 100 bytes got lost/);
    expect(Buffer.from(edu.buffer.subarray(0, 100)).equals(bytes)).toBe(true);
  });

  it('counts a doubled interrupt once, for its cause is acknowledged', async () => {
    const count = async () =>
      Number(/count (\d+)/.exec(await vm.check(['cat', `${sysfs}/interrupts`]))?.[1]);
    const before = await count();
    const double = plan.arm('interrupt.double', { nth: 1, rid: EDU, ms: 20 });
    expect(`${(await factorial(4)).stdout}`).toBe('24\n');
    expect(`${(await factorial(3)).stdout}`).toBe('6\n');
    expect(double.struck).toBe(1);
    expect(await count()).toBe(before + 2);
  });

  it('does not hang in a DMA that the IOMMU refuses, and nothing moves', async () => {
    edu.buffer.fill(0xa5);
    const { total } = machine.iommu.faults;
    plan.arm('dma.refuse', { nth: 1, rid: EDU });
    await toDevice(randomBytes(64));
    expect(machine.iommu.faults.since(total)).toMatchObject([
      { rid: EDU, direction: 'read', length: 64, reason: 'unmapped' },
    ]);
    expect(edu.lastRefusal?.why).toBe('refused by the IOMMU');
    expect(edu.buffer.subarray(0, 64).every((byte) => byte === 0xa5)).toBe(true);
  });

  it('reports a time-out where the device stalls, until a reset', async () => {
    const stall = plan.arm('device.stall', { nth: 1, rid: EDU });
    for (let tries = 0; tries < 2; tries++) {
      const { exitCode, stderr } = await factorial(5);
      expect([exitCode, `${stderr}`]).toEqual([1, expect.stringMatching(/timed out/)]);
    }
    await reset();
    expect(`${(await factorial(5)).stdout}`).toBe('120\n');
    expect(stall.struck).toBe(1);
  });

  it('touches the memory of a DMA that does not complete no more, until a reset', async () => {
    plan.arm('completion.drop', { nth: 1, rid: EDU });
    const log = await logOf(async () => {
      for (const why of [/timed out/, /Input\/output error/]) {
        const { exitCode, stderr } = await toDevice(randomBytes(9));
        expect([exitCode, `${stderr}`]).toEqual([1, expect.stringMatching(why)]);
      }
    });
    expect(log).toMatch(/a DMA of 9 bytes did not end/);
    await reset();
    const bytes = randomBytes(9);
    expect((await toDevice(bytes)).exitCode).toBe(0);
    expect(Buffer.from(edu.buffer.subarray(0, 9)).equals(bytes)).toBe(true);
  });

  it('reports ENODEV where the device has left, and hangs nowhere', async () => {
    const gone = plan.arm('register.all-ones', { nth: 1, rid: EDU });
    const { exitCode, stderr } = await toDevice(randomBytes(9));
    expect([exitCode, `${stderr}`]).toEqual([1, expect.stringMatching(/No such device/)]);
    expect((await vm.readFile(`${sysfs}/config`)).subarray(0, 4).toString('hex')).toBe('ffffffff');
    expect(gone.struck).toBe(1);
  });
});

describe('Linux’s nvme driver', () => {
  it('recovers a completion that never comes: abort, reset, and the data is right', async () => {
    const drop = plan.arm('completion.drop', {
      rid: DISK,
      when: ({ queue }) => queue > 0,
      times: 1,
    });
    const log = await logOf(async () => {
      const { exitCode, stdout } = await sh(
        'dd if=/dev/nvme0n1 bs=4096 count=4 skip=10 iflag=direct 2>/dev/null',
      );
      expect(exitCode).toBe(0);
      expect(stdout.equals(content.subarray(10 * 4096, 14 * 4096))).toBe(true);
    });
    expect(drop.struck).toBe(1);
    expect(log).toMatch(/nvme0: I\/O tag .* timeout, aborting/);
    expect(log).toMatch(/nvme0: I\/O tag .* timeout, reset controller/);
  });
});

it('of all that the kernel had nothing to complain about', () => {
  expect(vm.console.complaints()).toEqual([]);
});
