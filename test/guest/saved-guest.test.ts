/** Guests that go on from a saved boot: they find their devices, and share nothing but that boot. */
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Edu } from '../../src/devices/edu/edu.ts';
import { Machine, type MachineOptions } from '../../src/machine/machine.ts';
import { formWithIommu } from '../../src/machine/saved-machine.ts';
import { parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { Parts } from '../../src/setup/parts.ts';
import { bootGuest, planGuest } from '../../src/vm/guest.ts';
import { bareForm, savedGuest } from '../../src/vm/saved-guest.ts';
import type { VirtualMachine } from '../../src/vm/virtual-machine.ts';

const bytes = 128 * 2 ** 20;
const guest = { cpus: 1 } as const;

let parts: Parts;
beforeAll(async () => {
  parts = await ensureParts();
});

const resumed = async (options: Pick<MachineOptions, 'memory' | 'iommu'>, address: string) => {
  const lateFunctions = options.iommu === 'virtio';
  const machine = await Machine.create({ parts, bytes, lateFunctions, ...options });
  machine.plug(new Edu(), parseRequesterId(address));
  try {
    const form = lateFunctions ? await formWithIommu(parts, bytes, guest) : true;
    const vm = await machine.boot({ ...guest, resume: form });
    return { machine, vm, [Symbol.asyncDispose]: () => machine[Symbol.asyncDispose]() };
  } catch (error) {
    await machine[Symbol.asyncDispose]();
    throw error;
  }
};

/** Bytes there and back through the device's buffer, by DMA. */
const carry = async (vm: VirtualMachine) => {
  await vm.insmod('sealbus_edu');
  await vm.check(['sh', '-c', 'printf sealbus > /dev/edu0']);
  return await vm.check(['sh', '-c', 'dd if=/dev/edu0 bs=7 count=1 2> /dev/null']);
};

describe.each(['plain', 'sealed'] as const)('in %s memory', (memory) => {
  it('finds its device in its place, and serves it', async () => {
    await using one = await resumed({ memory }, '00:0b.0');
    const { vm } = one;
    expect(vm.kernelRelease).toBe(parts.kernel.release);
    expect(await vm.check(['ls', '/sys/bus/pci/devices'])).toContain('0000:00:0b.0');
    expect(await carry(vm)).toBe('sealbus');
  });

  it('knows what time it is, and nothing of another', async () => {
    await using one = await resumed({ memory }, '00:04.0');
    await using other = await resumed({ memory }, '00:05.0');
    await one.vm.writeFile('/root/mine', Buffer.from('mine'));
    expect(await other.vm.check(['ls', '/root'])).toBe('');
    expect(await other.vm.check(['ls', '/sys/bus/pci/devices'])).not.toContain('00:04.0');
    const now = Number(await other.vm.check(['date', '+%s'])) * 1000;
    expect(Math.abs(now - Date.now())).toBeLessThan(60_000);
    expect([await carry(one.vm), await carry(other.vm)]).toEqual(['sealbus', 'sealbus']);
  });
});

it('behind a virtio-iommu, the guest’s driver maps and unmaps', async () => {
  await using one = await resumed({ memory: 'sealed', iommu: 'virtio' }, '00:04.0');
  const { vm, machine } = one;
  await vm.insmod('virtio_iommu');
  expect(await carry(vm)).toBe('sealbus');
  expect(machine.virtioIommu?.domains.hasEndpoint(parseRequesterId('00:04.0'))).toBe(true);
  expect(machine.virtioIommu?.domains.mappings).toBeGreaterThan(0);
  expect(machine.iommu.faults.total).toBe(0);
});

it('boots again, by its firmware', async () => {
  await using one = await resumed({ memory: 'sealed' }, '00:04.0');
  await one.vm.writeFile('/root/mine', Buffer.from('mine'));
  await one.vm.reboot();
  expect(await one.vm.check(['ls', '/root'])).toBe('');
  expect(await one.vm.check(['dmesg'])).toMatch(/0000:00:04\.0: BAR 0 \[mem 0xf/);
  expect(await carry(one.vm)).toBe('sealbus');
  // What was set for the reboot is undone: a panic ends QEMU again.
  const panic = one.vm.exec(['sh', '-c', 'echo c > /proc/sysrq-trigger']);
  await expect(panic).resolves.toMatchObject({ ended: 'panicked' });
  expect((await one.vm.ended).kind).toBe('panicked');
});

describe('the file of a saved guest', () => {
  let cache: string;
  beforeAll(() => {
    cache = mkdtempSync(join(tmpdir(), 'sealbus-saved-'));
  });
  afterAll(() => rmSync(cache, { recursive: true }));

  const bare = async (words: readonly string[]) => {
    const memory = { kind: 'memfd', bytes } as const;
    const { description } = await planGuest(parts, { ...guest, memory, kernelArguments: words });
    return bareForm(parts.qemu, description);
  };
  const states = () => readdirSync(cache).filter((name) => /^saved-guest-[0-9a-f]{16}$/.test(name));

  it('is made once for each kind of guest, by whoever comes first', async () => {
    const form = await bare([]);
    let boots = 0;
    const counted = {
      ...form,
      boot: (options: Parameters<typeof form.boot>[0]) => {
        boots++;
        return form.boot(options);
      },
    };
    const files = await Promise.all([
      savedGuest(counted, {}, cache),
      savedGuest(counted, {}, cache),
    ]);
    expect(new Set(files).size).toBe(1);
    expect(boots).toBe(1);
    expect(states()).toHaveLength(1);
    // It holds what the guest has touched, not all its memory.
    expect(statSync(files[0] ?? '').blocks * 512).toBeLessThan(bytes);
    expect((await bare(['quiet=1'])).dependsOn).not.toEqual(form.dependsOn);
  });

  it('is removed where it does not load, and then made anew', async () => {
    const words = ['sealbus.damaged=1'];
    const options = { ...guest, memory: { kind: 'memfd', bytes }, kernelArguments: words } as const;
    const file = await savedGuest(await bare(words), {});
    truncateSync(file, 100_000);
    const boot = bootGuest(parts, { ...options, resume: true });
    await expect(boot).rejects.toThrow(/did not load.*run it again/s);
    expect(existsSync(file)).toBe(false);
    await using vm = await bootGuest(parts, { ...options, resume: true });
    expect(await vm.check(['cat', '/proc/cmdline'])).toContain('sealbus.damaged=1');
    rmSync(file);
  });
});
