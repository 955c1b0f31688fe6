/** fio in a guest: what is asked of a disk, and what fio's JSON says of it. */
import type { VirtualMachine } from '../src/vm/virtual-machine.ts';

/** What the io engine of fio is: the one that published figures of NVMe targets are had with. */
export const FIO_ENGINE = 'libaio';

export interface Workload {
  readonly pattern: 'randread' | 'randwrite' | 'read' | 'write';
  readonly block_bytes: number;
  readonly depth: number;
}

export interface FioFigure {
  readonly iops: number;
  readonly mib_s: number;
  /** 99 of 100 commands completed within that, from their submission (fio's clat). */
  readonly p99_us: number;
}

export interface FioTimes {
  /** Before anything counts: the queue fills, the guest's code is translated. */
  readonly ramp_s: number;
  readonly run_s: number;
}

/** Beyond the times asked for, on a busy machine. */
const START_TIMEOUT_MS = 60_000;

/**
 * One run on a block device of the guest, past its page cache.
 * @param device a path in /dev
 * @throws VmError where fio fails or cannot be run; Error where it reports an error
 */
export async function runFio(
  guest: Pick<VirtualMachine, 'check'>,
  device: string,
  workload: Workload,
  times: FioTimes,
): Promise<FioFigure> {
  const command = fioCommand(device, workload, times);
  const timeoutMs = (times.ramp_s + times.run_s) * 1000 + START_TIMEOUT_MS;
  return parseFio(await guest.check(command, { timeoutMs }), workload);
}

export function fioCommand(device: string, workload: Workload, times: FioTimes): string[] {
  const { pattern, block_bytes, depth } = workload;
  return [
    ...['fio', '--name=bench', `--filename=${device}`, '--output-format=json'],
    ...[`--ioengine=${FIO_ENGINE}`, '--direct=1', '--thread'],
    ...[`--rw=${pattern}`, `--bs=${block_bytes}`, `--iodepth=${depth}`],
    // Without a map of blocks done already, which costs the guest's CPU.
    ...['--norandommap', '--randrepeat=0'],
    ...[
      '--time_based',
      `--runtime=${times.run_s * 1000}ms`,
      `--ramp_time=${times.ramp_s * 1000}ms`,
    ],
    ...['--clat_percentiles=1', '--percentile_list=99'],
  ];
}

/** @throws Error where it is not fio's JSON of one job, the job failed, or did nothing */
export function parseFio(text: string, { pattern }: Workload): FioFigure {
  // Notes of fio's may come first.
  const start = text.indexOf('{');
  const wrong = (what: string) =>
    new Error(`expected fio's JSON with one job that ran, got ${what}: ${text.slice(0, 2000)}`);
  let output: FioOutput;
  try {
    output = JSON.parse(text.slice(Math.max(0, start))) as FioOutput;
  } catch {
    throw wrong('no JSON');
  }
  const job = output.jobs?.[0];
  if (job === undefined || output.jobs?.length !== 1) throw wrong('another number of jobs');
  if (job.error !== 0) throw wrong(`error ${job.error}`);
  const side = pattern.endsWith('read') ? job.read : job.write;
  const p99_ns = side?.clat_ns?.percentile?.['99.000000'];
  if (side === undefined || !(side.iops > 0) || p99_ns === undefined) throw wrong('no figures');
  return { iops: side.iops, mib_s: side.bw_bytes / 2 ** 20, p99_us: p99_ns / 1000 };
}

/** What is read of it (fio(1), "JSON output"). */
interface FioOutput {
  readonly jobs?: readonly {
    readonly error: number;
    readonly read?: FioSide;
    readonly write?: FioSide;
  }[];
}

interface FioSide {
  readonly iops: number;
  /** Bytes a second. */
  readonly bw_bytes: number;
  readonly clat_ns?: { readonly percentile?: Readonly<Record<string, number>> };
}
