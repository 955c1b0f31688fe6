/** Two guests of one serve, each booted by the command line that is printed for it. */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { cachedPages } from '../../../src/ffi/page-cache.ts';
import { parseServeConfig } from '../../../src/serve/config/parse-serve-config.ts';
import { Service } from '../../../src/serve/service.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { until } from '../../protocol/cli/sealbus.ts';
import { equalBlocks } from '../../protocol/machine/equal-blocks.ts';
import { noSealedRam } from '../../protocol/memory/sealed-bench.ts';
import { GuestConsole } from './guest-console.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

describe.skipIf(noSealedRam() !== undefined)('two guests of one serve', () => {
  test('boot by what is printed, do DMA under their own keys, and one goes on when the other is removed', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'sealbus-serve-'));
    ends.push(() => rmSync(directory, { recursive: true, force: true }));
    writeFileSync(join(directory, 'disk.img'), Buffer.alloc(4 * 2 ** 20, 'what is on the disk '));
    writeFileSync(join(directory, 'more.img'), Buffer.alloc(4 * 2 ** 20, 'what is on the disk '));
    writeFileSync(join(directory, 'spare.img'), Buffer.alloc(2 ** 20));
    writeFileSync(join(directory, 'own.img'), Buffer.alloc(4 * 2 ** 20, 'virtual function 1 '));
    const functions = [{ device: 'edu', at: '00:04.0' }];
    const namespaces = ['spare.img', { file: 'own.img', function: 1 }];
    const subsystems = [{ name: 'pool', 'virtual-functions': 2, namespaces }];
    const nvmes = [
      { device: 'nvme', at: '00:05.0', subsystem: 'pool', function: 1 },
      { device: 'nvme', at: '00:06.0', disks: ['disk.img'] },
      { device: 'nvme', at: '00:07.0', disks: ['more.img'] },
    ];
    const vms = [
      { name: 'alpha', size: '256M', iommu: 'virtio', functions: [...functions, ...nvmes] },
      { name: 'beta', size: '256M', iommu: 'virtio', functions },
    ];
    const config = parseServeConfig(JSON.stringify({ subsystems, vms }), 'vms.json', directory);
    const log: string[] = [];
    const service = await Service.start({
      ...{ config, parts: await ensureParts(), log: (message: string) => log.push(message) },
    });
    ends.push(() => service[Symbol.asyncDispose]());
    const [one, two] = service.host.vms.map(({ command }) => {
      const guest = new GuestConsole(command.text);
      ends.push(() => guest[Symbol.asyncDispose]());
      return guest;
    });
    if (one === undefined || two === undefined) throw new Error('expected two VMs');
    for (const guest of [one, two]) await guest.booted();

    // Each has its functions at the addresses that it was given, behind the IOMMU that is its own.
    for (const guest of [one, two]) {
      expect(await guest.run('cat /sys/bus/pci/devices/0000:00:04.0/vendor')).toBe('0x1234\n');
      expect(await guest.run('ls /sys/bus/pci/devices/0000:00:04.0/iommu_group/devices')).toContain(
        '0000:00:04.0',
      );
      expect(
        await guest.run(
          'printf carried | dd of=/dev/edu0 conv=notrunc 2>/dev/null; dd if=/dev/edu0 bs=7 count=1 2>/dev/null; echo',
        ),
      ).toBe('carried\n');
    }
    // Linux's own nvme driver has a virtual function beside two that are alone in their subsystems.
    expect(
      await one.run(
        'for c in /sys/class/nvme/*; do echo $(basename $(readlink $c/device)) $(cat $c/cntlid $c/state); done | sort',
      ),
    ).toBe('0000:00:05.0 2 live\n0000:00:06.0 1 live\n0000:00:07.0 1 live\n');
    const disk = (nsid: number) =>
      `for n in /sys/block/nvme*; do [ "$(cat $n/nsid)" = ${nsid} ] && [ -b /dev/\${n##*/} ] && head -c 19 /dev/\${n##*/}; done; echo`;
    expect(await one.run(disk(1))).toBe('what is on the disk'.repeat(2).concat('\n'));
    expect(await one.run(disk(2))).toBe('virtual function 1 \n');

    const { faults, table } = service.host.platform.iommu;
    expect(faults.records).toEqual([]);
    expect([...table.entries()].map(([rid, { vm }]) => [Math.floor(rid / 65536), vm])).toEqual([
      ...[
        [0, 1],
        [0, 1],
        [0, 1],
        [0, 1],
        [0, 1],
        [1, 2],
        [1, 2],
      ],
    ]);

    // The same kernel in both, at the same place: no block of ciphertext in common.
    const drams = [];
    for (const { machine } of service.host.vms) {
      await machine.sealed?.flush();
      drams.push((machine.sealed?.dram() ?? new Uint8Array(0)).slice(16 * 2 ** 20, 24 * 2 ** 20));
    }
    const [first = new Uint8Array(0), second = new Uint8Array(0)] = drams;
    expect(first.some((byte) => byte !== 0) && second.some((byte) => byte !== 0)).toBe(true);
    expect(equalBlocks(first, second)).toBe(0);

    expect(await service.host.remove('beta')).toBeGreaterThan(0);
    expect(log.join('\n')).toMatch(/VM beta ends: .*loses 2 functions/);
    // What it has mapped it has; a page that it has not is nowhere any more.
    two.type('head -c 150000000 /dev/zero > /tmp/pages');
    await until(() => two.ended, 60_000, 'the QEMU without memory to die');
    expect(
      await one.run(
        'printf again | dd of=/dev/edu0 conv=notrunc 2>/dev/null; dd if=/dev/edu0 bs=5 count=1 2>/dev/null; echo',
      ),
    ).toBe('again\n');
    expect(service.host.platform.lost.aborted).toBe(false);

    // Once its key is revoked, what is left of a guest in the page cache goes with its QEMU.
    const { machine } = service.host.vm('alpha');
    const ram = openSync(machine.sealed?.path ?? '', 'r+');
    ends.push(() => closeSync(ram));
    const cached = () => cachedPages(ram, 0, machine.bytes);
    await service.host.keys.revoke(machine.slot);
    await machine.sealed?.dropCache();
    expect(cached()).toBeGreaterThan(0);
    await one[Symbol.asyncDispose]();
    await until(() => cached() === 0, 20_000, 'the pages of the guest to leave the page cache');
  });
});
