/**
 * fio with verification in a Debian on our controller, in sealed memory behind the virtio-iommu: blocks
 * of 512 B to 1 MiB, mixed at random, four jobs of queue depth 32, direct. Meanwhile the VM's key is rotated,
 * one time after the other.
 *
 * The short form, 45 s, resets the controller half way. SEALBUS_FIO_SECONDS=600 is the long form, as
 * long as it says and without a reset:
 *
 *     SEALBUS_FIO_SECONDS=600 npx vitest run --project guest test/guest/nvme/fio-verify.test.ts
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkRootFileSystem } from '../root-file-system.ts';
import { bootTimeoutMs, DebianGuest } from './debian-guest.ts';

const SHORT_SECONDS = 45;
const JOBS = 4;
const JOB_BYTES = 64 * 2 ** 20;
/** What was written is verified after the time, and a host may be busy. */
const graceMs = 600_000;

const seconds = Number(process.env.SEALBUS_FIO_SECONDS ?? SHORT_SECONDS);
if (!Number.isInteger(seconds) || seconds < 1 || seconds > 86_400) {
  throw new Error(
    `expected SEALBUS_FIO_SECONDS to be 1 to 86400, got ${process.env.SEALBUS_FIO_SECONDS}`,
  );
}
const timeoutMs = seconds * 1000 + graceMs;

let guest: DebianGuest;
beforeAll(async () => {
  guest = await DebianGuest.boot({ disks: [{ bytes: JOBS * JOB_BYTES }] });
}, bootTimeoutMs);
afterAll(async () => {
  await guest?.[Symbol.asyncDispose]();
}, bootTimeoutMs);

interface Direction {
  readonly total_ios: number;
  readonly io_bytes: number;
  /** Milliseconds. */
  readonly runtime: number;
}
interface Report {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: Direction;
    readonly write: Direction;
  }[];
}

it(
  `finds no error in ${seconds} s of rotations, and no DMA was refused`,
  async () => {
    const disk = await guest.disk(2);
    const job = [
      ...['--name=verify', `--filename=${disk}`, '--rw=randwrite', '--ioengine=libaio'],
      ...['--direct=1', '--iodepth=32', `--numjobs=${JOBS}`, '--group_reporting'],
      ...[`--size=${JOB_BYTES}`, `--offset_increment=${JOB_BYTES}`],
      '--bssplit=512/15:1k/10:4k/30:12k/5:16k/10:64k/15:256k/10:1m/5',
      ...['--time_based', `--runtime=${seconds}`],
      // Each 256 blocks are read back while others are written; the first that is wrong ends it.
      ...['--verify=crc32c', '--verify_fatal=1', '--verify_backlog=256'],
      '--output-format=json',
    ];
    const running = guest.try(`exec fio ${job.join(' ')}`, { timeoutMs });
    const rotations = rotateDuring(running);
    if (seconds === SHORT_SECONDS) {
      const controller = await guest.controller();
      await guest.sh(`sleep ${seconds / 2}; nvme reset ${controller}`);
    }
    const { exitCode, stdout, stderr } = await running;
    expect(await rotations).toBeGreaterThan(3);
    const said = `${stdout}${stderr}`;
    expect(exitCode, said).toBe(0);
    const report = JSON.parse(`${stdout}`.slice(`${stdout}`.indexOf('{'))) as Report;
    const [{ error, read, write } = noJob()] = report.jobs;
    console.log(`fio: ${rates('read', read)}, ${rates('written', write)}`);
    expect(error, said).toBe(0);
    // All that was verified had been written, and there was some of it.
    expect(write.total_ios).toBeGreaterThan(0);
    expect(read.total_ios).toBeGreaterThan(0);
    expect(said).not.toMatch(/verify: bad|bad magic|error=/);

    expect(guest.machine.iommu.faults.total).toBe(0);
    expect(guest.machine.iommu.faults.records).toEqual([]);
    expect(await guest.kernelErrors()).toBe('');
  },
  timeoutMs,
);

it(
  'powers off by itself, its root file system clean',
  async () => {
    expect(await guest.powerOff()).toBe(true);
    checkRootFileSystem(guest.image);
  },
  timeoutMs,
);

/** @returns how many rotations of the VM's key there were until `running` was over */
async function rotateDuring(running: Promise<unknown>): Promise<number> {
  const { keys, slot } = guest.machine;
  let isOver = false;
  const over = () => {
    isOver = true;
  };
  running.then(over, over);
  let rotations = 0;
  for (; !isOver; rotations++) {
    await keys.rotate(slot);
    await keys.rotated(slot);
  }
  return rotations;
}

function rates(what: string, { total_ios, io_bytes, runtime }: Direction): string {
  const perSecond = runtime > 0 ? 1000 / runtime : 0;
  const mebibytes = ((io_bytes / 2 ** 20) * perSecond).toFixed(1);
  return `${total_ios} blocks ${what} in ${runtime / 1000} s, ${Math.round(total_ios * perSecond)} IOPS, ${mebibytes} MiB/s`;
}

function noJob(): never {
  throw new Error('expected a job in the report of fio, got none');
}
