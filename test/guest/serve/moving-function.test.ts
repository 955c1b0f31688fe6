/** An NVMe's virtual function that moves between two guests that run, each booted by the command that `serve` prints. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { parseServeConfig } from '../../../src/serve/config/parse-serve-config.ts';
import { ControlClient } from '../../../src/serve/control/control-client.ts';
import { Service } from '../../../src/serve/service.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { noSealedRam } from '../../protocol/memory/sealed-bench.ts';
import { GuestConsole } from './guest-console.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

function directoryWithDisk(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-moving-'));
  ends.push(() => rmSync(directory, { recursive: true, force: true }));
  writeFileSync(join(directory, 'disk.img'), Buffer.alloc(4 * 2 ** 20, 'of nobody '));
  return directory;
}

async function booted(command: string): Promise<GuestConsole> {
  const guest = new GuestConsole(command);
  ends.push(() => guest[Symbol.asyncDispose]());
  await guest.booted();
  return guest;
}

/** Waits in the guest, whose hot-plug driver takes a moment, for its one NVMe namespace. */
const appears = 'for i in $(seq 1200); do [ -b /dev/nvme?n1 ] && break; usleep 25000; done';
const read = (bytes: number) => `${appears}; head -c ${bytes} /dev/nvme?n1; echo`;
const write = (text: string) =>
  `${appears}; printf '${text}' | dd of=$(ls /dev/nvme?n1) conv=notrunc,fsync 2> /dev/null`;

describe.skipIf(noSealedRam() !== undefined)(
  'a virtual function of an NVMe between two guests of one serve',
  () => {
    test('moves from one to the other while both run, with its data, and back', async () => {
      const directory = directoryWithDisk();
      const edu = { device: 'edu', at: '00:04.0' };
      const namespaces = [{ file: 'disk.img', function: 1 }];
      const subsystems = [{ name: 'pool', 'virtual-functions': 1, namespaces }];
      const nvme = { device: 'nvme', at: '01:00.0', subsystem: 'pool', function: 1 };
      const vms = [
        { name: 'alpha', size: '256M', iommu: 'virtio', 'root-ports': 10, functions: [edu, nvme] },
        { name: 'beta', size: '256M', 'root-ports': 1, functions: [edu] },
      ];
      const config = parseServeConfig(JSON.stringify({ subsystems, vms }), 'vms.json', directory);
      const log: string[] = [];
      const service = await Service.start({
        ...{ config, parts: await ensureParts(), log: (message: string) => log.push(message) },
      });
      ends.push(() => service[Symbol.asyncDispose]());
      const said = () => log.filter((line) => !line.includes(': disk '));
      const client = new ControlClient(service.controlPath);
      ends.push(() => client[Symbol.dispose]());
      const [one, two] = await Promise.all(
        service.host.vms.map(({ command }) => booted(command.text)),
      );
      if (one === undefined || two === undefined) throw new Error('expected two VMs');
      const vm = (name: string) => client.ask('inspect', { vm: name });

      // Bus n is behind port n.
      const buses =
        'cd /sys/bus/pci/devices; for p in 0000:00:0[12].*; do ls -d $p/pci_bus/*; done';
      const busOfPort = (n: number) => {
        const bus = n.toString(16).padStart(2, '0');
        return `0000:00:0${n <= 8 ? 1 : 2}.${(n - 1) % 8}/pci_bus/0000:${bus}\n`;
      };
      expect(await one.run(buses)).toBe(
        Array.from({ length: 10 }, (_, i) => busOfPort(i + 1)).join(''),
      );
      expect(await one.run(read(9))).toBe('of nobody\n');
      await one.run(write('of alpha '));

      // The second VM gets a new key meanwhile: what its guest has is re-encrypted under it.
      await client.ask('key-rotate', { slot: 'beta' });
      const moved = await client.ask('bind', { rid: '0000:01:00.0', target: 'beta' });
      expect(moved).toMatchObject({ rid: '0001:01:00.0', address: '0000:01:00.0', attached: true });
      expect(await two.run(read(9))).toBe('of alpha \n');
      const left = 'ls /sys/class/nvme; ls -d /sys/bus/pci/devices/0000:01:00.0 2> /dev/null';
      expect(await one.run(left)).toBe('');
      expect((await vm('alpha')).functions).toHaveLength(2);
      await two.run(write('of beta! '));

      const back = await client.ask('bind', { rid: moved.rid, target: 'alpha', at: '0a:00.0' });
      expect(back).toMatchObject({ rid: '0000:0a:00.0', attached: true });
      expect(await one.run(read(9))).toBe('of beta! \n');
      expect(await one.run('ls /sys/bus/pci/devices/0000:0a:00.0/iommu_group/devices')).toBe(
        '0000:0a:00.0\n',
      );
      expect(readFileSync(join(directory, 'disk.img')).subarray(0, 9).toString()).toBe('of beta! ');

      // Both go on, each with what it has kept.
      for (const guest of [one, two]) {
        const carried =
          'printf on | dd of=/dev/edu0 conv=notrunc 2>/dev/null; head -c 2 /dev/edu0; echo';
        expect(await guest.run(carried)).toBe('on\n');
        expect(await guest.run("dmesg | grep -c -e 'Call Trace' -e 'BUG:'")).toBe('0\n');
      }
      expect(service.host.platform.iommu.faults.records).toEqual([]);
      expect(said()).toEqual([]);

      // A killed QEMU leaves its QMP socket behind; the command serves again, and so does moving to it.
      await two[Symbol.asyncDispose]();
      const { command } = await vm('beta');
      const again = await booted(command);
      // Within a VM too, from port to port, through the one connection that QEMU takes.
      const near = await client.ask('bind', { rid: back.rid, target: 'alpha', at: '03:00.0' });
      expect(near).toMatchObject({ rid: '0000:03:00.0', attached: true });
      expect(await one.run(read(9))).toBe('of beta! \n');
      const third = await client.ask('bind', { rid: near.rid, target: 'beta' });
      expect(third).toMatchObject({ rid: '0001:01:00.0', attached: true });
      expect(await again.run(read(9))).toBe('of beta! \n');
      expect(service.host.platform.iommu.faults.records).toEqual([]);
      expect(said()).toEqual([]);
    });
  },
);
