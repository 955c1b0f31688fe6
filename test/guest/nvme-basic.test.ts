/** Linux's own nvme driver on our controller, in sealed memory: the busybox guest, nothing of ours in it. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Nvme } from '../../src/devices/nvme/nvme.ts';
import { Machine } from '../../src/machine/machine.ts';
import { parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { BlockStorage } from '../../src/storage/block-storage.ts';
import { openStorage } from '../../src/storage/open-storage.ts';
import type { VirtualMachine } from '../../src/vm/virtual-machine.ts';

const MIB = 2 ** 20;
const DISK_BYTES = 32 * MIB;
const address = '0000:00:04.0';

function suite(name: string, memory: 'plain' | 'sealed', doorbells: 'message' | 'shadow') {
  describe(`nvme in ${name}`, () => {
    const directory = mkdtempSync(join(tmpdir(), 'sealbus-nvme-'));
    const files = [join(directory, 'a.img'), join(directory, 'b.img')] as const;
    let machine: Machine;
    let vm: VirtualMachine;
    let storages: BlockStorage[];
    /** Of namespaces 1 and 2: the kernel looks for them in parallel, and names them as it finds them. */
    let first: string;
    let second: string;

    beforeAll(async () => {
      writeFileSync(files[0], Buffer.concat([partitioned(), randomBytes(DISK_BYTES - MIB)]));
      writeFileSync(files[1], randomBytes(DISK_BYTES));
      storages = await Promise.all(
        files.map((path) => openStorage(path, { readOnly: false, log: () => undefined })),
      );
      const parts = await ensureParts();
      machine = await Machine.create({ parts, memory, bytes: 512 * MIB });
      const [a, b] = storages as [BlockStorage, BlockStorage];
      const namespaces = [{ storage: a }, { storage: b, blockBytes: 4096 as const }];
      machine.plug(new Nvme({ namespaces, doorbells }), parseRequesterId('00:04.0'));
      vm = await machine.boot();
      await locate();
    });
    afterAll(async () => {
      await machine?.[Symbol.asyncDispose]();
      await Promise.all((storages ?? []).map((storage) => storage.close()));
      rmSync(directory, { recursive: true, force: true });
    });

    const sh = (script: string) => vm.check(['sh', '-ec', script]);
    const named = (nsid: number) =>
      sh(
        `for i in $(seq 300); do for n in /sys/block/nvme*; do [ "$(cat $n/nsid 2>/dev/null)" = ${nsid} ] && ` +
          `[ -b /dev/$(basename $n) ] && basename $n && exit 0; done; usleep 20000; done; dmesg | tail -20; exit 1`,
      );
    const locate = async () => {
      first = `/dev/${(await named(1)).trim()}`;
      second = `/dev/${(await named(2)).trim()}`;
    };
    const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
    const guestDigest = async (path: string) => (await sh(`sha256sum ${path}`)).split(' ')[0];

    it('is bound by Linux, which sees both namespaces, their blocks and the partition', async () => {
      const said = await sh(
        `a=$(basename ${first}) b=$(basename ${second}); cd /sys/block; ` +
          'cat $a/size $a/queue/logical_block_size $b/size $b/queue/logical_block_size $a/$a"p1"/start $a/$a"p1"/size',
      );
      const sectors = DISK_BYTES / 512;
      expect(said.trim().split('\n').map(Number)).toEqual([
        sectors,
        512,
        sectors,
        4096,
        2048,
        4096,
      ]);
    });

    it('gives the guest what the files hold', async () => {
      for (const [n, path] of [first, second].entries()) {
        expect(await guestDigest(path)).toBe(digest(readFileSync(files[n]!)));
      }
    });

    it('carries what the guest writes and flushes to the files', async () => {
      const bytes = randomBytes(3 * MIB + 4096);
      await vm.check(['sh', '-c', 'cat > /root/data'], { stdin: bytes });
      for (const [n, path] of [first, second].entries()) {
        await sh(`dd if=/root/data of=${path} bs=1M seek=5 conv=fsync 2>/dev/null`);
        const file = readFileSync(files[n]!);
        expect(digest(file.subarray(5 * MIB, 5 * MIB + bytes.length))).toBe(digest(bytes));
        await sh('echo 3 > /proc/sys/vm/drop_caches');
        expect(await guestDigest(path)).toBe(digest(file));
      }
    });

    it('takes direct I/O of every size, and discards', async () => {
      await sh(
        `for bs in 512 4096 65536 524288 1048576; do dd if=${first} of=/root/x bs=$bs count=2 iflag=direct 2>/dev/null; ` +
          `head -c $((2 * bs)) ${first} | cmp - /root/x; done`,
      );
      await sh(`blkdiscard -o $((8 * 1048576)) -l $((1048576)) ${second}`);
      const hole = readFileSync(files[1]).subarray(8 * MIB, 9 * MIB);
      expect(hole.every((byte) => byte === 0)).toBe(true);
    });

    it('is unbound and bound, and reset, while it is read', async () => {
      const driver = '/sys/bus/pci/drivers/nvme';
      await sh(
        `dd if=${first} of=/dev/null bs=4k iflag=direct 2>/dev/null & echo ${address} > ${driver}/unbind; wait || true`,
      );
      await sh(`echo ${address} > ${driver}/bind`);
      await locate();
      await sh(
        `dd if=${second} of=/dev/null bs=64k iflag=direct 2>/dev/null & usleep 50000; echo 1 > /sys/class/nvme/nvme0/reset_controller; wait`,
      );
      await locate();
      expect(await guestDigest(second)).toBe(digest(readFileSync(files[1])));
      await sh(`echo 1 > /sys/bus/pci/devices/${address}/reset`);
      expect(await guestDigest(first)).toBe(digest(readFileSync(files[0])));
    });

    it('survives a reboot of the guest in the middle of I/O', async () => {
      await vm.qmp.execute('set-action', { reboot: 'reset' }); // in place of -no-reboot
      const before = digest(readFileSync(files[0]));
      vm.start(['sh', '-c', `while :; do dd if=${first} of=/dev/null bs=64k iflag=direct; done`]);
      vm.start(['sh', '-c', `while :; do dd if=/dev/zero of=${second} bs=1M oflag=direct; done`]);
      await new Promise((resolve) => setTimeout(resolve, 300));
      vm.start(['reboot', '-f']);
      await bootedAgain();
      await locate();
      expect(digest(readFileSync(files[0]))).toBe(before);
      expect(await guestDigest(first)).toBe(before);
      expect(await guestDigest(second)).toBe(digest(readFileSync(files[1])));
    });

    /** The agent's words of before and after share a line: ask until it answers, of the new life. */
    const bootedAgain = async () => {
      for (let tries = 0; tries < 60; tries++) {
        const ask = ['sh', '-c', 'pidof dd || echo new'];
        const { stdout } = await vm.exec(ask, { timeoutMs: 1000 }).catch(() => ({ stdout: '' }));
        if (`${stdout}`.trim() === 'new') return;
      }
      throw new Error('expected the guest to boot again');
    };

    it('leaves no fault behind, nor an error in the kernel’s log', async () => {
      expect(machine.iommu.faults.total).toBe(0);
      const errors = await sh("dmesg | grep -E 'nvme.*(timeout|I/O error|abort|fail)' || true");
      expect(errors).toBe('');
    });
  });
}

/** A megabyte with an MBR: one Linux partition of 2 MiB from 1 MiB on. */
function partitioned(): Buffer {
  const bytes = Buffer.alloc(MIB);
  bytes.set([0x00, 0x00, 0x21, 0x00, 0x83, 0x00, 0x3f, 0x00], 446);
  bytes.writeUInt32LE(2048, 454);
  bytes.writeUInt32LE(4096, 458);
  bytes.set([0x55, 0xaa], 510);
  return bytes;
}

suite('sealed memory, doorbells in memory', 'sealed', 'shadow');
suite('plain memory, doorbells in memory', 'plain', 'shadow');
suite('sealed memory, doorbells by message', 'sealed', 'message');
