/**
 * Linux's own virtio-iommu driver programs our IOMMU: a device behind it reaches what the guest has
 * mapped for it, while it is mapped, and nothing else.
 */

import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BUFFER_START } from '../../src/devices/edu/dma-engine.ts';
import { Edu, type EduOptions } from '../../src/devices/edu/edu.ts';
import { newTranslation } from '../../src/iommu/domain.ts';
import { Machine, type PluggedFunction } from '../../src/machine/machine.ts';
import { gpa } from '../../src/memory/guest-memory.ts';
import { formatRequesterId, parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { VirtualMachine } from '../../src/vm/virtual-machine.ts';
import { VmError } from '../../src/vm/vm-error.ts';
import { until } from '../protocol/cli/sealbus.ts';
import { eduDriverSuite } from './edu-suite.ts';

const MIB = 2 ** 20;
const PAGE = 4096;
const LENGTH = 512;

const machineOptions = async () =>
  ({ parts: await ensureParts(), memory: 'sealed', bytes: 512 * MIB, iommu: 'virtio' }) as const;

eduDriverSuite(
  "sealbus's edu in sealed memory, behind virtio-iommu",
  async () => {
    const machine = await Machine.create(await machineOptions());
    const rid = parseRequesterId('00:04.0');
    machine.plug(new Edu(), rid);
    try {
      const vm = await machine.boot();
      await vm.insmod('virtio_iommu');
      const end = async () => {
        const refused = machine.iommu.faults.records;
        await machine[Symbol.asyncDispose]();
        expect(refused).toEqual([]);
      };
      return { vm, address: formatRequesterId(rid), end };
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      throw error;
    }
  },
  { fileBytes: 300_001, hammerSeconds: 5, resettable: false },
);

describe("what Linux's virtio-iommu driver does to a device", () => {
  /** What the device's last transfer used, and where that led at that moment. */
  interface Seen {
    readonly toRam: boolean;
    readonly iova: number;
    readonly leadsTo: number;
    readonly bytes: Buffer;
  }
  const seen: Seen[] = [];
  const translation = newTranslation();
  const edu = new Edu({
    dmaMask: (1n << 64n) - 1n,
    onTransfer: ({ toRam, source, destination }, bytes) => {
      const iova = Number(toRam ? destination : source);
      domainOf(first).translate(iova, translation);
      seen.push({ toRam, iova, leadsTo: translation.address, bytes: Buffer.from(bytes) });
    },
  });
  const log: string[] = [];
  let machine: Machine;
  let vm: VirtualMachine;
  let first: PluggedFunction;
  let second: PluggedFunction;

  beforeAll(async () => {
    machine = await Machine.create({ ...(await machineOptions()), log: (line) => log.push(line) });
    first = machine.plug(edu, parseRequesterId('00:04.0'));
    second = machine.plug(new Edu(), parseRequesterId('00:05.0'));
    vm = await machine.boot();
  });
  afterAll(async () => {
    await machine?.[Symbol.asyncDispose]();
  });

  const address = ({ rid }: PluggedFunction) => formatRequesterId(rid);
  const sysfs = (plugged: PluggedFunction) => `/sys/bus/pci/devices/${address(plugged)}`;
  const shell = (script: string) => vm.check(['sh', '-c', script]);
  const guestDomains = () => {
    if (machine.virtioIommu === undefined) throw new Error('expected a virtio-iommu');
    return machine.virtioIommu.domains;
  };
  const entryOf = ({ rid }: PluggedFunction) => {
    const entry = machine.iommu.table.get(rid);
    if (entry === undefined) throw new Error(`expected an entry for ${formatRequesterId(rid)}`);
    return entry;
  };
  const domainOf = (plugged: PluggedFunction) => entryOf(plugged).domain;

  /** Guest memory as it is, past the IOMMU. */
  const pageAt = (at: number) => {
    const page = Buffer.alloc(PAGE);
    first.memory.read(gpa(at), machine.slot, page);
    return page;
  };
  const carry = async () => {
    const bytes = randomBytes(10_000);
    await vm.writeFile('/tmp/sent', bytes);
    await vm.check(['edu-copy', '/dev/edu0', '/tmp/sent', '/tmp/came'], { timeoutMs: 20_000 });
    expect((await vm.readFile('/tmp/came')).equals(bytes)).toBe(true);
  };
  /** Stores to the device's DMA registers past its driver, as a bad driver would. */
  const program = async (direction: 'read' | 'write', at: number) => {
    const hex = (value: number | bigint) => `0x${value.toString(16)}`;
    const [source, destination] = direction === 'read' ? [at, BUFFER_START] : [BUFFER_START, at];
    await vm.check([
      ...['pcimem', address(first), '0', '0x80', '8', hex(source), ',', '0x88', '8'],
      ...[hex(destination), ',', '0x90', '8', hex(LENGTH), ',', '0x98', '4'],
      hex(direction === 'read' ? 1 : 3),
    ]);
    const { transfers, refused } = edu.dmaCounters;
    const before = transfers + refused;
    await until(
      () =>
        edu.dmaCounters.transfers + edu.dmaCounters.refused > before || !edu.bar0.dmaCommand.start,
      10_000,
      'the transfer to end',
    );
  };
  /** Where a file's page is in guest-physical memory; the file stays as it is. */
  const quietPage = async () => {
    const content = randomBytes(PAGE);
    await vm.writeFile('/root/quiet', content);
    const places: number[] = [];
    const piece = Buffer.alloc(MIB);
    for (const { gpa: start, size } of first.memory.regions.all) {
      for (let at = 0; at < size; at += MIB) {
        const part = piece.subarray(0, Math.min(MIB, size - at));
        first.memory.read(gpa(start + at), machine.slot, part);
        for (let page = 0; page < part.length; page += PAGE) {
          if (part.subarray(page, page + PAGE).equals(content)) places.push(start + at + page);
        }
      }
    }
    // Buffers that the file came through hold the same bytes; only the file's own page changes now.
    content[0] = ~(content[0] ?? 0);
    await vm.check(['sh', '-c', 'exec dd of=/root/quiet bs=1 conv=notrunc'], {
      stdin: content.subarray(0, 1),
    });
    const found = places.find((at) => pageAt(at).equals(content));
    if (found === undefined) throw new Error(`expected the file's page, got none of ${places}`);
    return found;
  };
  const untilLogged = async (pattern: RegExp) => {
    for (let tries = 0; tries < 50; tries++) {
      const said = pattern.exec(await vm.check(['dmesg']));
      if (said !== null) return said;
    }
    throw new Error(`expected the guest's kernel to log ${pattern}`);
  };

  it('firmware and kernel have come up while endpoints were in bypass mode', () => {
    expect(guestDomains()).toMatchObject({ bypass: true, domains: 0, mappings: 0 });
    expect(domainOf(first).cacheable).toBe(false);
  });

  it('it binds, and makes a group of each function behind it and of no other', async () => {
    await vm.insmod('virtio_iommu');
    await vm.insmod('sealbus_edu');
    const said = await shell('ls -d /sys/kernel/iommu_groups/*/devices/*');
    const members = said
      .trim()
      .split('\n')
      .map((path) => path.split('/').at(-1));
    expect(members.sort()).toEqual([address(first), address(second)]);
    expect(await shell('cat /sys/kernel/iommu_groups/*/type')).toMatch(/^(DMA(-FQ)?\n)+$/);
    expect(guestDomains().domains).toBe(2);
    expect(domainOf(first)).not.toBe(domainOf(second));
    expect(entryOf(first)).toMatchObject({
      vm: machine.vm,
      slot: machine.slot,
      rights: 'read-write',
    });
  });

  it('the device is given addresses that are not guest-physical, and they lead to the bytes', async () => {
    seen.length = 0;
    const bytes = randomBytes(PAGE);
    await vm.check(['sh', '-c', 'exec dd of=/dev/edu0 bs=4096 conv=notrunc'], { stdin: bytes });
    const one = seen.find(({ toRam }) => !toRam);
    expect(one?.bytes.equals(bytes)).toBe(true);
    expect(one?.iova).not.toBe(one?.leadsTo);
    await carry();
    expect(machine.iommu.faults.total).toBe(0);
  });

  it('a function cannot use what is mapped for another', async () => {
    const mine = machine.iommu.faults.total;
    second.port.busMaster = true;
    const { iova } = seen.at(-1) ?? { iova: 0 };
    expect(() => second.port.readInto(iova, new Uint8Array(16))).toThrow(/unmapped/);
    expect(machine.iommu.faults.total).toBe(mine + 1);
  });

  describe('an address that nobody has mapped', () => {
    it.each(['read', 'write'] as const)(
      'is refused for a %s: nothing moves, and Linux says so',
      async (direction) => {
        const quiet = await quietPage();
        const before = pageAt(quiet);
        edu.buffer.fill(0x5a);
        const { total } = machine.iommu.faults;
        await vm.check(['dmesg', '-c']);
        await program(direction, quiet);
        const reason = 'unmapped';
        expect(machine.iommu.faults.since(total)).toMatchObject([
          { rid: first.rid, direction, length: LENGTH, reason },
        ]);
        expect(edu.buffer.every((byte) => byte === 0x5a)).toBe(true);
        expect(pageAt(quiet).equals(before)).toBe(true);
        const flag = direction === 'read' ? 'R' : 'W';
        await untilLogged(
          new RegExp(
            `virtio\\d+: page fault from EP ${first.rid} at 0x${quiet.toString(16)} \\[${flag}\\]`,
          ),
        );
        expect(machine.virtioIommu?.counters.reportsDropped).toBe(0);
        await carry();
      },
    );
  });

  it('a driver that unbinds takes its mappings with it, cached ones too', async () => {
    seen.length = 0;
    await carry();
    const used = [...new Set(seen.map(({ iova }) => iova))];
    expect(used.length).toBeGreaterThan(0);
    expect(guestDomains().mappings).toBeGreaterThan(0);
    const driver = '/sys/bus/pci/drivers/sealbus_edu';
    await shell(
      `echo ${address(first)} > ${driver}/unbind; echo ${address(second)} > ${driver}/unbind`,
    );
    // Linux gathers UNMAPs and sends them 10 ms later (its flush queue).
    await until(() => guestDomains().mappings === 0, 10_000, 'the last mapping to go');
    // Memory space and bus mastering on again: a device that goes on by itself.
    await shell(`printf '\\006' | dd of=${sysfs(first)}/config bs=1 seek=4 conv=notrunc`);
    await until(() => first.port.busMaster, 10_000, 'bus mastering');
    const { total } = machine.iommu.faults;
    for (const iova of used) {
      expect(() => first.port.readInto(iova, new Uint8Array(16))).toThrow(/unmapped/);
    }
    expect(machine.iommu.faults.total).toBe(total + used.length);
    await shell(
      `echo ${address(first)} > ${driver}/bind; echo ${address(second)} > ${driver}/bind`,
    );
    await carry();
  });

  it('a guest that reboots finds everything as new, firmware in bypass mode', async () => {
    await vm.qmp.execute('set-action', { reboot: 'reset' }); // in place of -no-reboot
    vm.start(['reboot', '-f']);
    await until(() => guestDomains().domains === 0, 20_000, 'the domains to go');
    await bootedAgain();
    expect(guestDomains()).toMatchObject({ bypass: true, domains: 0, mappings: 0 });
    await vm.insmod('virtio_iommu');
    await vm.insmod('sealbus_edu');
    await carry();
    expect(guestDomains().domains).toBe(2);
    seen.length = 0;
    await carry();
    expect(seen.length).toBeGreaterThan(0);
    expect(seen.every(({ iova, leadsTo }) => iova !== leadsTo)).toBe(true);
  });

  it('the kernel and the devices did not complain of anything but those faults', () => {
    expect(vm.console.complaints()).toEqual([]);
    expect(log).toEqual([]);
  });

  /** The agent's words of before and after share a line: ask until it answers. */
  const bootedAgain = async () => {
    for (let tries = 0; tries < 20; tries++) {
      try {
        const { exitCode } = await vm.exec(['ls', '/dev/edu0'], { timeoutMs: 1000 });
        if (exitCode === 1) return;
      } catch (error) {
        // The reset came while the old life was being asked.
        if (!(error instanceof VmError)) throw error;
      }
    }
    throw new Error('expected the guest to boot again');
  };
});

describe('a guest that is told how to use it', () => {
  it.each([
    {
      name: 'passes devices through: a bypass domain, and addresses are guest-physical',
      argument: 'iommu.passthrough=1',
      type: 'identity',
      same: true,
    },
    {
      name: 'is strict: each buffer is mapped for its transfer, and unmapped before it is used',
      argument: 'iommu.strict=1',
      type: 'DMA',
      same: false,
    },
  ])('$name', async ({ argument, type, same }) => {
    const translation = newTranslation();
    const used: { iova: number; leadsTo: number }[] = [];
    await using machine = await Machine.create({ ...(await machineOptions()), memory: 'plain' });
    const onTransfer: EduOptions['onTransfer'] = ({ toRam, source, destination }) => {
      const iova = Number(toRam ? destination : source);
      machine.iommu.table.get(plugged.rid)?.domain.translate(iova, translation);
      used.push({ iova, leadsTo: translation.address });
    };
    const plugged = machine.plug(new Edu({ onTransfer }), parseRequesterId('00:04.0'));
    const vm = await machine.boot({ kernelArguments: [argument] });
    await vm.insmod('virtio_iommu');
    await vm.insmod('sealbus_edu');
    expect((await vm.check(['sh', '-c', 'cat /sys/kernel/iommu_groups/*/type'])).trim()).toBe(type);
    const bytes = randomBytes(20_000);
    await vm.writeFile('/tmp/sent', bytes);
    await vm.check(['edu-copy', '/dev/edu0', '/tmp/sent', '/tmp/came'], { timeoutMs: 20_000 });
    expect((await vm.readFile('/tmp/came')).equals(bytes)).toBe(true);
    expect(machine.iommu.faults.total).toBe(0);
    expect(machine.virtioIommu?.domains.domains).toBe(1);
    expect(used.length).toBeGreaterThan(0);
    expect(used.every(({ iova, leadsTo }) => (iova === leadsTo) === same)).toBe(true);
    // Nothing is left of what was mapped for a transfer.
    for (const { iova } of used) {
      const read = () => plugged.port.readInto(iova, new Uint8Array(1));
      if (same) read();
      else expect(read).toThrow(/unmapped/);
    }
  });
});
