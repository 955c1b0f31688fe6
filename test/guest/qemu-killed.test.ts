/** QEMU killed at every moment: its devices live on, forget it, and serve the next. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BUFFER_START } from '../../src/devices/edu/dma-engine.ts';
import { Edu } from '../../src/devices/edu/edu.ts';
import { Machine, type PluggedFunction } from '../../src/machine/machine.ts';
import type { ResetCause } from '../../src/pci/endpoint.ts';
import { formatRequesterId, parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { Parts } from '../../src/setup/parts.ts';
import { VirtualMachine } from '../../src/vm/virtual-machine.ts';
import { QemuEndedError } from '../../src/vm/vm-error.ts';
import { until } from '../protocol/cli/sealbus.ts';

const rid = parseRequesterId('00:04.0');
const DELAY_MS = 200;
const SOON_MS = 2000;

let parts: Parts;
beforeAll(async () => {
  parts = await ensureParts();
});

/** Takes its time for a transfer, and remembers what happened to it. */
class WatchedEdu extends Edu {
  readonly resets: ResetCause[] = [];
  readonly moved: { count: number };

  constructor() {
    const moved = { count: 0 };
    super({ delayNs: DELAY_MS * 1e6, onTransfer: () => void moved.count++ });
    this.moved = moved;
  }

  override reset(cause: ResetCause): void {
    this.resets.push(cause);
    super.reset(cause);
  }
}

describe.each(['sealed', 'plain'] as const)('in %s memory, on one machine', (memory) => {
  const edu = new WatchedEdu();
  const log: string[] = [];
  let machine: Machine;
  let plugged: PluggedFunction;
  beforeAll(async () => {
    machine = await Machine.create({
      ...{ parts, memory, bytes: 256 * 2 ** 20 },
      log: (message) => log.push(message),
    });
    plugged = machine.plug(edu, rid);
  });
  afterAll(async () => {
    await machine?.[Symbol.asyncDispose]();
  });

  const boot = async (signal?: AbortSignal) => {
    const { description } = await machine.plan();
    return await VirtualMachine.start({
      ...{ qemu: parts.qemu, description },
      ...(signal === undefined ? {} : { signal }),
    });
  };
  /** What must hold once QEMU is gone, however. */
  const forgotten = async () => {
    await until(() => !plugged.server.connected, SOON_MS, 'a server without a client');
    expect(edu.resets.at(-1)).toBe('connection-lost');
    expect(plugged.server.regions).toEqual([]);
    expect(plugged.memory.regions.all).toEqual([]);
    expect(plugged.port.busMaster).toBe(false);
    expect(() => plugged.port.readInto(0, new Uint8Array(1))).toThrow(/refused/);
    edu.resets.length = 0;
  };

  it.each([
    ['as it connects', () => plugged.server.connected, 0],
    ['as the firmware maps memory', () => plugged.server.regions.length > 3, 0],
    ['as the kernel starts', () => plugged.server.regions.length > 3, 800],
  ])('killed at boot, %s', async (_moment, reached, thenMs) => {
    const abort = new AbortController(); // it kills QEMU with SIGKILL
    const booting = boot(abort.signal);
    booting.catch(() => {});
    try {
      await until(reached, 20_000, 'that moment');
      await sleep(thenMs);
    } finally {
      abort.abort(new Error('killed'));
    }
    await expect(booting).rejects.toThrow('killed');
    await forgotten();
  });

  it('killed at rest', async () => {
    await using vm = await boot();
    process.kill(vm.pid, 'SIGKILL');
    await vm.ended;
    await forgotten();
  });

  it('killed in the middle of a transfer: it has no effect', async () => {
    await using vm = await boot();
    await vm.insmod('sealbus_edu');
    edu.moved.count = 0;
    const { total } = machine.iommu.faults;
    const stores = ['0x80', '8', `${BUFFER_START}`, ',', '0x88', '8', '0x1000000'];
    await vm.check([
      ...['pcimem', formatRequesterId(rid), '0', ...stores],
      ...[',', '0x90', '8', '4096', ',', '0x98', '4', '7'],
    ]);
    process.kill(vm.pid, 'SIGKILL');
    await vm.ended;
    expect(edu.moved.count, 'it was over before the kill: nothing is shown').toBe(0);
    await forgotten();
    await sleep(2 * DELAY_MS);
    expect(edu.moved.count).toBe(0);
    // The one that forgotten() tried itself.
    expect(machine.iommu.faults.total).toBe(total + 1);
  });

  it('killed while the driver waits: who waits is told', async () => {
    await using vm = await boot();
    await vm.insmod('sealbus_edu');
    const command = vm.run(['sh', '-c', 'while :; do cat /dev/edu0 > /dev/null; done']);
    await until(() => edu.dmaCounters.transfers > 2, 10_000, 'transfers');
    process.kill(vm.pid, 'SIGKILL');
    await expect(command).rejects.toBeInstanceOf(QemuEndedError);
    await forgotten();
  });

  it('and the next one finds everything as new', async () => {
    await using vm = await boot();
    await vm.insmod('sealbus_edu');
    await vm.check(['sh', '-c', 'echo "carried" | dd of=/dev/edu0 conv=notrunc']);
    const { stdout } = await vm.exec(['sh', '-c', 'dd if=/dev/edu0 bs=8 count=1']);
    expect(`${stdout}`).toBe('carried\n');
    expect(vm.console.complaints()).toEqual([]);
    expect(log).toEqual([]);
  });
});
