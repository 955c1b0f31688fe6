/** A Debian whose disks go away under its I/O: driver unbound, function removed, guest started anew. */
import { spawnSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatRequesterId } from '../../../src/pci/requester-id.ts';
import { findProgram } from '../../../src/setup/host-programs.ts';
import { checkRootFileSystem } from '../root-file-system.ts';
import { bootTimeoutMs, DebianGuest } from './debian-guest.ts';

const DISK_BYTES = 256 * 2 ** 20;
const timeoutMs = 2 * bootTimeoutMs;
const second = formatRequesterId(DebianGuest.second);
const secondDevice = `/sys/bus/pci/devices/${second}`;
const driver = '/sys/bus/pci/drivers/nvme';

let guest: DebianGuest;
beforeAll(async () => {
  guest = await DebianGuest.boot({ others: [{ bytes: DISK_BYTES }] });
}, bootTimeoutMs);
afterAll(async () => {
  await guest?.[Symbol.asyncDispose]();
}, bootTimeoutMs);

const disk = () => guest.disk(1, DebianGuest.second);

/** Direct, 32 under way in each of two jobs, until it is ended or meets an error. */
const load = (file: string) =>
  `fio --name=load --filename=${file} --rw=randrw --bssplit=4k/60:64k/30:512k/10 --iodepth=32 --numjobs=2 ` +
  '--ioengine=libaio --direct=1 --size=64m --offset_increment=64m --time_based --runtime=600';

async function expectWorking(): Promise<void> {
  const file = await disk();
  await guest.sh(`
    head -c 1048576 /dev/urandom > /tmp/data
    dd if=/tmp/data of=${file} bs=64k oflag=direct conv=fsync 2>/dev/null
    dd if=${file} bs=64k count=16 iflag=direct 2>/dev/null | cmp - /tmp/data`);
}

describe('with I/O in flight', () => {
  it('the driver is unbound and bound again: what was under way fails, nothing hangs, and all works', async () => {
    for (let n = 0; n < 3; n++) {
      const file = await disk();
      const said = await guest.sh(`
        ${load(file)} > /tmp/fio.log 2>&1 & fio=$!
        sleep 3; kill -0 $fio
        timeout 120 sh -c 'echo ${second} > ${driver}/unbind'
        for i in $(seq 600); do kill -0 $fio 2>/dev/null || break; sleep 0.1; done
        wait $fio && echo 'fio went on' || echo 'fio ended'
        test ! -e ${secondDevice}/nvme; echo ${second} > ${driver}/bind`);
      expect(said).toBe('fio ended\n');
    }
    await expectWorking();
  });

  it('the function is taken out and found again by a scan of the bus', async () => {
    const file = await disk();
    const said = await guest.sh(`
      ${load(file)} > /tmp/fio.log 2>&1 & fio=$!
      sleep 3; kill -0 $fio
      timeout 120 sh -c 'echo 1 > ${secondDevice}/remove'
      wait $fio && echo 'fio went on' || echo 'fio ended'
      test ! -e ${secondDevice}; echo 1 > /sys/bus/pci/rescan`);
    expect(said).toBe('fio ended\n');
    await expectWorking();
  });

  it('the function is reset (FLR): the driver recovers, and the I/O comes to a good end', async () => {
    const file = await disk();
    const { exitCode, stdout } = await guest.try(`
      fio --name=load --filename=${file} --rw=randwrite --bs=4k --iodepth=16 --ioengine=libaio --direct=1 \
        --size=16m --time_based --runtime=15 --verify=crc32c --verify_backlog=64 --verify_fatal=1 & fio=$!
      for i in 1 2 3; do sleep 3; echo 1 > ${secondDevice}/reset; done
      wait $fio`);
    expect(exitCode, `${stdout}`).toBe(0);
  });

  it('has had no DMA refused', () => {
    expect(guest.machine.iommu.faults.records).toEqual([]);
  });
});

describe('a guest that starts anew with I/O in flight', () => {
  const boots = () => guest.sh('cat /proc/sys/kernel/random/boot_id', { timeoutMs: bootTimeoutMs });

  beforeAll(async () => {
    // QEMU would end instead (-no-reboot).
    await guest.vm.qmp.execute('set-action', { reboot: 'reset' });
    await guest.sh(`mkfs.ext4 -q -F ${await disk()}`);
  }, timeoutMs);

  /** Both file systems are written to, each file with its fsync; fio writes directly beside it. */
  async function writes(generation: string): Promise<void> {
    await guest.sh(`
      mkdir -p /mnt; mount ${await disk()} /mnt; df /mnt | grep -q /mnt
      echo '${generation}' | tee /root/generation > /mnt/generation; sync /root/generation /mnt/generation
      cat > /tmp/busy << 'END'
      n=0; while :; do n=$((n+1)); for at in /root /mnt; do
        head -c 20000 /dev/urandom > $at/file-$((n%50)); sync $at/file-$((n%50)); done; done
END
      setsid bash /tmp/busy > /dev/null 2>&1 < /dev/null &
      setsid ${load('/mnt/fio')} > /dev/null 2>&1 < /dev/null & fio=$!
      sleep 8; test -s /mnt/fio; test -s /mnt/file-1; kill -0 $fio`);
  }

  it.each([
    ['by reboot(8), which unmounts nothing', () => guest.sh('setsid reboot -ff & sleep 60')],
    ['by the machine’s reset', () => guest.vm.qmp.execute('system_reset')],
    ['by an orderly reboot', () => guest.sh('setsid systemctl reboot & sleep 60')],
  ])(
    '%s comes up again, and its file systems recover',
    async (how, begin) => {
      const before = await boots();
      await writes(how);
      const anew = guest.vm.startedAnew(bootTimeoutMs);
      // What runs in the guest gets no answer any more.
      Promise.resolve(begin()).catch(() => {});
      await anew;
      expect(await boots()).not.toBe(before);
      const found = await guest.sh(`
        mount ${await disk()} /mnt; cat /root/generation /mnt/generation
        ls /mnt | grep -c file-; umount /mnt; e2fsck -f -n ${await disk()} > /tmp/fsck || cat /tmp/fsck
        systemctl is-system-running --wait; findmnt -n -o FSTYPE /`);
      expect(found).toMatch(/^(.+)\n\1\n\d+\nrunning\next4\n$/);
      expect(found.startsWith(`${how}\n`)).toBe(true);
    },
    timeoutMs,
  );

  it(
    'leaves both file systems clean when it is shut down',
    async () => {
      expect(await guest.powerOff()).toBe(true);
      checkRootFileSystem(guest.image);
      const e2fsck = findProgram('e2fsck') ?? 'e2fsck';
      const other = spawnSync(e2fsck, ['-f', '-n', guest.otherFiles[0] as string], {
        encoding: 'utf8',
      });
      expect(other.status, `${other.stdout}${other.stderr}`).toBe(0);
      expect(guest.machine.iommu.faults.records).toEqual([]);
    },
    timeoutMs,
  );
});
