/** nvme-cli in a Debian on our controller: what it asks succeeds, or is refused as NVMe 1.4 says. */
import { randomBytes } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Status } from '../../../src/devices/nvme/status.ts';
import type { Machine } from '../../../src/machine/machine.ts';
import { checkRootFileSystem } from '../root-file-system.ts';
import { bootTimeoutMs, bytesOf, DebianGuest } from './debian-guest.ts';
import { NvmeCli } from './nvme-cli.ts';
import {
  describeSubsystem,
  functionsInGuest,
  newSubsystem,
  otherVm,
} from './nvme-cli-subsystem.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SCRATCH_BYTES = 64 * MIB;
const SCRATCH_BLOCKS = SCRATCH_BYTES / 512;
const READ_ONLY_BYTES = 16 * MIB;
const timeoutMs = 600_000;

const scratchContent = randomBytes(SCRATCH_BYTES);
const readOnlyContent = randomBytes(READ_ONLY_BYTES);

let guest: DebianGuest;
let cli: NvmeCli;
let other: Machine;
/** Namespace 2, of 512-byte blocks at first, and namespace 3, which is not to be written to. */
let scratch: string;
let readOnly: string;
let controller: string;

beforeAll(async () => {
  const subsystem = newSubsystem();
  guest = await DebianGuest.boot({
    disks: [
      { bytes: SCRATCH_BYTES, content: scratchContent },
      { bytes: READ_ONLY_BYTES, content: readOnlyContent, readOnly: true },
    ],
    more: functionsInGuest(subsystem),
    // Else Debian's kernel maps no registers that a driver has (CONFIG_IO_STRICT_DEVMEM).
    kernelArguments: 'iomem=relaxed',
  });
  cli = new NvmeCli(guest);
  other = await otherVm(guest, subsystem);
  controller = await guest.controller();
  [scratch, readOnly] = [await guest.disk(2), await guest.disk(3)];
}, bootTimeoutMs);
afterAll(async () => {
  await other?.[Symbol.asyncDispose]();
  await guest?.[Symbol.asyncDispose]();
}, timeoutMs);

const status = (command: string) => cli.status(command);
const text = (command: string) => cli.text(command);
const json = (command: string) => cli.json(command);

const scratchBytes = (offset: number, length: number) =>
  bytesOf(guest.files[0] as string, offset, length);

describe('what there is', () => {
  it('id-ctrl: an NVMe 1.4 controller with a megabyte a command and the optional commands', async () => {
    const it = await json(`id-ctrl ${controller}`);
    expect(it).toMatchObject({ vid: 0x1b36, ssvid: 0x1af4, ver: 0x1_0400, mdts: 8, cntrltype: 1 });
    expect(it.nn).toBe(3);
    expect(String(it.sn).trim()).toBe('SEALBUS0001');
    // Compare, Dataset Management, Write Zeroes, Verify; Format NVM; a volatile write cache.
    expect(Number(it.oncs) & 0x8d).toBe(0x8c | 1);
    expect(Number(it.oacs) & 2).toBe(2);
    expect(Number(it.vwc) & 1).toBe(1);
  });

  it('id-ns, list-ns, list-ctrl, ns-descs, list: three namespaces', async () => {
    const sizes = await Promise.all([1, 2, 3].map((n) => json(`id-ns ${controller} -n ${n}`)));
    const { size } = statSync(guest.image);
    const expected = [size, SCRATCH_BYTES, READ_ONLY_BYTES].map((bytes) => bytes / 512);
    expect(sizes.map(({ nsze }) => nsze)).toEqual(expected);
    expect(sizes.map(({ flbas }) => flbas)).toEqual([0, 0, 0]);
    expect(await status(`id-ns ${controller} -n 4`)).toBe(Status.invalidNamespaceOrFormat);
    const listed = await text(`list-ns ${controller}`);
    expect([...listed.matchAll(/:(0x\d+)$/gm)].map(([, nsid]) => Number(nsid))).toEqual([1, 2, 3]);
    expect(await text(`list-ctrl ${controller}`)).toMatch(/present: 1$/m);
    expect(await text(`ns-descs ${scratch}`)).toMatch(/^uuid +: [0-9a-f]{8}-/m);
    const { Devices: all } = await cli.json<{
      Devices: { SerialNumber: string; NameSpace: number; SectorSize: number }[];
    }>('list');
    const found = all
      .filter(({ SerialNumber }) => SerialNumber.trim() === 'SEALBUS0001')
      .map(({ NameSpace, SectorSize }) => [NameSpace, SectorSize])
      .sort();
    expect(found).toEqual([1, 2, 3].map((nsid) => [nsid, 512]));
  });

  it('show-regs: the registers, mapped', async () => {
    const said = await text(`show-regs ${controller} -o json`);
    // Not by JSON.parse: CAP is beyond 2^53.
    const register = (name: string) => {
      const [, value] = new RegExp(`"${name}": ?(\\d+)`).exec(said) ?? [];
      if (value === undefined) throw new Error(`expected register ${name}, got ${said}`);
      return BigInt(value);
    };
    expect(register('vs')).toBe(0x1_0400n);
    expect(register('csts')).toBe(1n);
    expect(register('cc') & 1n).toBe(1n);
    // 1024 entries, contiguous queues.
    expect(register('cap') & 0x1_ffffn).toBe(0x1_03ffn);
  });
});

describeSubsystem(() => guest);

describe('logs', () => {
  it('smart-log counts what was read and written', async () => {
    const counts = async () => {
      const log = await json(`smart-log ${controller}`);
      return [log.host_read_commands, log.host_write_commands].map(Number) as [number, number];
    };
    const [reads, writes] = await counts();
    for (let n = 0; n < 3; n++) {
      await text(`read ${scratch} -s 0 -c 7 -z 4096 -d /dev/null`);
      await guest.sh(`head -c 512 /dev/zero | nvme write ${scratch} -s 0 -c 0 -z 512`);
    }
    const [readsNow, writesNow] = await counts();
    expect(readsNow - reads).toBeGreaterThanOrEqual(3);
    expect(writesNow - writes).toBeGreaterThanOrEqual(3);
    expect(await json(`smart-log ${controller}`)).toMatchObject({
      ...{ critical_warning: 0, temperature: 313, avail_spare: 100, percent_used: 0 },
      ...{ media_errors: 0, unsafe_shutdowns: 0 },
    });
  });

  it('error-log has the commands that failed, the newest first, and smart-log counts them', async () => {
    expect(await status(`read ${scratch} -s ${SCRATCH_BLOCKS} -c 0 -z 512 -d /dev/null`)).toBe(
      Status.lbaOutOfRange,
    );
    expect(await status(`get-feature ${controller} -f 0x7f`)).toBe(Status.invalidField);
    const { errors } = (await json(`error-log ${controller} -e 2`)) as {
      errors?: readonly Record<string, unknown>[];
    };
    const [newest, before] = errors ?? [];
    expect(newest).toMatchObject({ sqid: 0, status_field: Status.invalidField });
    expect(before).toMatchObject({
      ...{ status_field: Status.lbaOutOfRange, lba: SCRATCH_BLOCKS, nsid: 2 },
      error_count: Number(newest?.error_count) - 1,
    });
    expect(before?.sqid).toBeGreaterThan(0);
    const { num_err_log_entries: count } = await json(`smart-log ${controller}`);
    expect(count).toBe(newest?.error_count);
  });

  it('fw-log, effects-log, changed-ns-list-log, get-log', async () => {
    expect(await text(`fw-log ${controller}`)).toMatch(/afi +: 0x1$/m);
    expect(await text(`effects-log ${controller}`)).toMatch(/Format/);
    expect(await status(`changed-ns-list-log ${controller}`)).toBe(Status.success);
    const health = await guest.sh(
      `nvme get-log ${controller} --log-id=2 --log-len=512 -b | od -An -tx1 -N3`,
    );
    expect(health.trim()).toBe('00 39 01');
    expect(await status(`get-log ${controller} --log-id=0x70 --log-len=512`)).toBe(
      Status.invalidLogPage,
    );
  });
});

describe('features', () => {
  const value = async (id: number) => {
    const said = await text(`get-feature ${controller} --feature-id=${id}`);
    return Number.parseInt(/value:(?:0x)?([0-9a-f]+)$/m.exec(said)?.[1] ?? '', 16);
  };

  it('get-feature and set-feature: the volatile write cache, off and on', async () => {
    expect(await value(6)).toBe(1);
    await text(`set-feature ${controller} --feature-id=6 --value=0`);
    expect(await value(6)).toBe(0);
    await text(`set-feature ${controller} --feature-id=6 --value=1`);
    expect(await value(6)).toBe(1);
  });

  it('refuse to be saved, an identifier that there is not, and a namespace that is none of theirs', async () => {
    const set = `set-feature ${controller} --value=1`;
    expect(await status(`${set} --feature-id=6 --save`)).toBe(Status.featureNotSaveable);
    expect(await status(`${set} --feature-id=0x7f`)).toBe(Status.invalidField);
    expect(await status(`${set} --feature-id=6 --namespace-id=2`)).toBe(
      Status.featureNotNamespaceSpecific,
    );
  });

  it('are at their defaults again after a reset', async () => {
    await text(`set-feature ${controller} --feature-id=6 --value=0`);
    await text(`reset ${controller}`);
    expect(await value(6)).toBe(1);
  });
});

describe('blocks of 512 bytes', () => {
  const block = 1000;
  const offset = block * 512;
  const at = (first: number, blocks: number) => `-s ${first} -c ${blocks - 1} -z ${blocks * 512}`;

  it('write, read, compare: the bytes are those of the file on the host', async () => {
    const bytes = randomBytes(8 * 512);
    await guest.vm.writeFile('/tmp/data', bytes);
    await text(`write ${scratch} ${at(block, 8)} -d /tmp/data`);
    expect(scratchBytes(offset, bytes.length)).toEqual(bytes);
    expect(scratchBytes(offset - 512, 512)).toEqual(scratchContent.subarray(offset - 512, offset));
    const end = offset + bytes.length;
    expect(scratchBytes(end, 512)).toEqual(scratchContent.subarray(end, end + 512));
    await guest.sh(`nvme read ${scratch} ${at(block, 8)} -d /tmp/got; cmp /tmp/data /tmp/got`);
    expect(await status(`compare ${scratch} ${at(block, 8)} -d /tmp/data`)).toBe(Status.success);
    expect(await status(`compare ${scratch} ${at(block + 1, 8)} -d /tmp/data`)).toBe(
      Status.compareFailure,
    );
    // One bit of the last byte is enough.
    const almost = Buffer.from(bytes);
    almost.writeUInt8((almost.at(-1) as number) ^ 1, almost.length - 1);
    await guest.vm.writeFile('/tmp/almost', almost);
    expect(await status(`compare ${scratch} ${at(block, 8)} -d /tmp/almost`)).toBe(
      Status.compareFailure,
    );
    expect(scratchBytes(offset, bytes.length)).toEqual(bytes);
  });

  it('write-zeroes and dsm: zeros, there and nowhere else', async () => {
    await text(`write-zeroes ${scratch} -s ${block + 100} -c 7`);
    await text(`write-zeroes ${scratch} -s ${block + 108} -c 7 --deac`);
    await text(`dsm ${scratch} --slbs=${block + 200},${block + 300} --blocks=8,16 --ad`);
    for (const [first, blocks] of [
      [100, 16],
      [200, 8],
      [300, 16],
    ] as const) {
      const [from, length] = [offset + first * 512, blocks * 512];
      expect(scratchBytes(from, length)).toEqual(Buffer.alloc(length));
      for (const beside of [from - 512, from + length]) {
        expect(scratchBytes(beside, 512)).toEqual(scratchContent.subarray(beside, beside + 512));
      }
    }
  });

  it('flush and verify succeed', async () => {
    expect(await status(`flush ${scratch}`)).toBe(Status.success);
    expect(await status(`verify ${scratch} -s 0 -c 255`)).toBe(Status.success);
  });

  it('past the end all of them are refused with LBA Out of Range, and alter nothing', async () => {
    const last = SCRATCH_BLOCKS - 1;
    const before = scratchBytes(last * 512, 512);
    expect(await status(`read ${scratch} ${at(last, 1)} -d /dev/null`)).toBe(Status.success);
    for (const command of [
      `read ${scratch} ${at(last, 2)} -d /dev/null`,
      `read ${scratch} ${at(SCRATCH_BLOCKS, 1)} -d /dev/null`,
      `write ${scratch} ${at(last, 2)} -d /tmp/data`,
      `compare ${scratch} ${at(last, 2)} -d /tmp/data`,
      `verify ${scratch} -s ${last} -c 1`,
      `write-zeroes ${scratch} -s ${last} -c 1`,
      `dsm ${scratch} --slbs=${last} --blocks=2 --ad`,
    ]) {
      expect([command, await status(command)]).toEqual([command, Status.lbaOutOfRange]);
    }
    expect(scratchBytes(last * 512, 512)).toEqual(before);
  });

  it('an opcode that is not there is refused', async () => {
    expect(await status(`write-uncor ${scratch} -s 0 -c 0`)).toBe(Status.invalidOpcode);
    expect(await status(`admin-passthru ${controller} --opcode=0x7f`)).toBe(Status.invalidOpcode);
  });
});

it('a disk that is read-only is read, and refuses all that would alter it', async () => {
  const first = '-s 8 -c 7 -z 4096';
  await guest.vm.writeFile('/tmp/known', readOnlyContent.subarray(4096, 8192));
  expect(await status(`compare ${readOnly} ${first} -d /tmp/known`)).toBe(Status.success);
  for (const command of [
    `write ${readOnly} ${first} -d /tmp/known`,
    `write-zeroes ${readOnly} -s 8 -c 7`,
    `dsm ${readOnly} --slbs=8 --blocks=8 --ad`,
  ]) {
    expect([command, await status(command)]).toEqual([command, Status.writeToReadOnlyRange]);
  }
  expect(await status(`format ${readOnly} --lbaf=0 --force`)).toBe(Status.namespaceWriteProtected);
  expect(readFileSync(guest.files[1] as string).equals(readOnlyContent)).toBe(true);
});

describe('format', () => {
  const blocks = async () => {
    const name = scratch.replace('/dev/', '');
    const said = await guest.sh(
      `cat /sys/block/${name}/size /sys/block/${name}/queue/logical_block_size`,
    );
    return said.trim().split('\n').map(Number);
  };

  it('--lbaf=1 makes blocks of 4 KiB, leaves nothing of before, and they work', async () => {
    await text(`format ${scratch} --lbaf=1 --force`);
    expect(await blocks()).toEqual([SCRATCH_BLOCKS, 4096]);
    expect(await json(`id-ns ${scratch}`)).toMatchObject({ nsze: SCRATCH_BYTES / 4096, flbas: 1 });
    expect(scratchBytes(0, SCRATCH_BYTES).equals(Buffer.alloc(SCRATCH_BYTES))).toBe(true);
    const bytes = randomBytes(3 * 4096);
    await guest.vm.writeFile('/tmp/data', bytes);
    await text(`write ${scratch} -s 10 -c 2 -z ${bytes.length} -d /tmp/data`);
    expect(scratchBytes(10 * 4096, bytes.length)).toEqual(bytes);
    await guest.sh(`dd if=${scratch} bs=4096 skip=10 count=3 iflag=direct | cmp - /tmp/data`);
    expect(
      await status(`read ${scratch} -s ${SCRATCH_BYTES / 4096} -c 0 -z 4096 -d /dev/null`),
    ).toBe(Status.lbaOutOfRange);
  });

  it('refuses a format and an erasure that there are not, and erases user data back to 512 bytes', async () => {
    expect(await status(`format ${scratch} --lbaf=5 --force`)).toBe(Status.invalidFormat);
    expect(await status(`format ${scratch} --lbaf=0 --ses=2 --force`)).toBe(Status.invalidField);
    expect(await blocks()).toEqual([SCRATCH_BLOCKS, 4096]);
    await text(`format ${scratch} --lbaf=0 --ses=1 --force`);
    expect(await blocks()).toEqual([SCRATCH_BLOCKS, 512]);
    expect(scratchBytes(0, MIB).equals(Buffer.alloc(MIB))).toBe(true);
  });
});

it('reset in the midst of I/O: nothing is lost, and it goes on', async () => {
  const job = [
    ...['--name=reset', `--filename=${scratch}`, '--rw=randwrite', '--bs=4k', '--size=8m'],
    ...['--iodepth=16', '--ioengine=libaio', '--direct=1', '--time_based', '--runtime=20'],
    ...['--verify=crc32c', '--verify_backlog=64', '--verify_fatal=1'],
  ];
  const fio = guest.try(`fio ${job.join(' ')}`);
  const resets = guest.sh(`for i in 1 2 3; do sleep 5; nvme reset ${controller}; done; echo done`);
  const { exitCode, stdout, stderr } = await fio;
  expect(exitCode, `${stdout}${stderr}`).toBe(0);
  expect(await resets).toBe('done\n');
  expect(await guest.sh(`dmesg | grep -c 'resetting controller'`)).toMatch(/^[3-9]\n$/);
});

it('has left no fault, no error in the kernel’s log, and a root file system that is clean', async () => {
  expect(guest.machine.iommu.faults.total).toBe(0);
  expect(await guest.kernelErrors()).toBe('');
  expect(await guest.powerOff()).toBe(true);
  checkRootFileSystem(guest.image);
});
