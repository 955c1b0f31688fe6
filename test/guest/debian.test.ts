/** Debian trixie from our NVMe, as a shell starts it: by both firmwares, as console and for a command. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import { type DebianImageForTests, debianImageForTests } from '../../src/testkit/debian-image.ts';
import { bootGuest } from '../../src/vm/guest.ts';
import { RunPlace } from '../protocol/cli/sealbus.ts';
import { askRoot, checkRootFileSystem } from './root-file-system.ts';

/** A boot takes under a minute on a quiet host with two cores, and several times that on a busy one. */
const timeoutMs = 420_000;

const place = new RunPlace();
let image: DebianImageForTests;
beforeAll(async () => {
  image = await debianImageForTests();
}, timeoutMs);
afterEach(() => {
  expect(place.left).toEqual([]);
});
afterAll(async () => {
  place[Symbol.dispose]();
  await image?.[Symbol.asyncDispose]();
});

const start = (args: readonly string[], stdin: 'open' | Uint8Array | string = '') =>
  place.start(['run', ...args], { stdin, timeoutMs });

describe('a stock Debian in sealed memory behind the virtio-iommu', () => {
  it(
    'boots by SeaBIOS to a login on the console, is running, and powers off by itself',
    async () => {
      const { child, ended, said } = start(['--disk', image.file], 'open');
      const type = (line: string) => child.stdin?.write(`${line}\n`);
      await said(/debian login: $/);
      type('root'); // without a password
      await said(/~# $/);
      type('echo state=$(systemctl is-system-running --wait)');
      await said(/^state=running\r?$/m);
      type('echo agents=$(systemctl list-units --all --plain --no-legend "sealbus*" | wc -l)');
      await said(/^agents=0\r?$/m); // not a line of ours is in it
      type('echo iommu=$(ls /sys/class/iommu/*/devices)');
      await said(/^iommu=0000:00:02\.0\r?$/m);

      const second = await place.run(['run', '--disk', image.file]);
      expect([second.code, second.stderr]).toEqual([1, expect.stringMatching(/in use/)]);

      type('poweroff');
      const { code, stderr } = await ended;
      expect(code, stderr).toBe(0);
      expect(stderr).not.toMatch(/fault/);
      checkRootFileSystem(image.file);
    },
    timeoutMs,
  );

  it(
    'boots by UEFI; a command has its streams, its exit code and the disks that were named',
    async () => {
      const bytes = randomBytes(2 ** 20);
      const other = join(place.path, 'other.img');
      writeFileSync(other, bytes);
      const script = [
        'set -e',
        'test -d /sys/firmware/efi',
        // As the README says to find it: which of nvme0n1 and nvme0n2 it is differs from boot to boot.
        'other=/dev/disk/by-path/pci-0000:00:02.0-nvme-2',
        'cmp - $other',
        'test "$(systemctl is-system-running --wait)" = running',
        'test "$(blockdev --getro $other)" = 1',
        'if dd if=/dev/zero of=$other bs=4096 count=1 conv=fsync 2>/dev/null; then exit 9; fi',
        'grep -q " / ext4 rw" /proc/mounts',
        'echo written > /root/by-a-command; echo to stderr >&2; echo to stdout',
        'exit 7',
      ].join('\n');
      const disks = ['--disk', image.file, '--disk', `${other},ro`];
      const { code, stdout, stderr } = await start(
        ['--firmware', 'uefi', ...disks, '--', 'sh', '-c', script],
        bytes,
      ).ended;
      expect([code, `${stdout}`], stderr).toEqual([7, 'to stdout\n']);
      expect(stderr).toContain('to stderr\n');
      expect(stderr).not.toMatch(/fault|turned off/);
      expect(readFileSync(other).equals(bytes)).toBe(true);
      checkRootFileSystem(image.file);
      expect(askRoot(image.file, 'cat /root/by-a-command')).toBe('written\n');
    },
    timeoutMs,
  );

  it(
    'leaves the image as it was with --snapshot, and ends with 255 where the guest panics',
    async () => {
      const digest = () => execFileSync('sha256sum', [image.file], { encoding: 'utf8' });
      const before = digest();
      const script =
        'echo lost > /root/by-a-snapshot; sync; echo c > /proc/sysrq-trigger; sleep 600';
      const flags = ['--snapshot', '--disk', image.file];
      const { code, stderr } = await start([...flags, '--', 'sh', '-c', script]).ended;
      expect(code, stderr).toBe(255);
      expect(stderr).toMatch(/panicked: .*sysrq triggered crash/);
      expect(digest()).toBe(before);
    },
    timeoutMs,
  );
});

it(
  'the same image boots from QEMU’s own NVMe, and the agent shuts it down',
  async () => {
    const address = parseRequesterId('00:04.0');
    await using vm = await bootGuest(await ensureParts(), {
      memory: { kind: 'memfd', bytes: 2 ** 30 },
      disk: { from: address, agent: true },
      devices: [
        {
          ...{ kind: 'builtin', driver: 'nvme', address, properties: { serial: 'builtin' } },
          drive: { file: image.file },
        },
      ],
    });
    expect(await vm.check(['systemctl', 'is-system-running', '--wait'])).toBe('running\n');
    expect(await vm.powerOff(120_000)).toBe(true);
    checkRootFileSystem(image.file);
  },
  timeoutMs,
);

describe('a guest that does not get there', () => {
  it('a disk without a boot loader: what was waited for, and where it stopped', async () => {
    const address = parseRequesterId('00:04.0');
    const file = join(place.path, 'empty.img');
    const fd = openSync(file, 'w');
    ftruncateSync(fd, 2 ** 20);
    closeSync(fd);
    const boot = bootGuest(await ensureParts(), {
      disk: { from: address, agent: true },
      bootTimeoutMs: 5000,
      devices: [
        {
          ...{ kind: 'builtin', driver: 'nvme', address, properties: { serial: 'builtin' } },
          drive: { file },
        },
      ],
    });
    await expect(boot).rejects.toThrow(
      /expected the agent, .*systemd \(256 or later\).* within 5 s, got no word/,
    );
  });
});
