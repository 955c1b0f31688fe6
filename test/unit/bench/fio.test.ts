import { expect, test } from 'vitest';
import { fioCommand, parseFio, runFio } from '../../../bench/fio.ts';

const workload = { pattern: 'randread', block_bytes: 4096, depth: 32 } as const;
const times = { ramp_s: 0.3, run_s: 2 };

/** As fio(1) has it, "JSON output". */
function output(job: object): string {
  return JSON.stringify({ 'fio version': 'fio-3.39', jobs: [job] });
}
const idle = { iops: 0, bw_bytes: 0, clat_ns: {} };
const reads = { iops: 1000, bw_bytes: 4_096_000, clat_ns: { percentile: { '99.000000': 12_500 } } };

test("a job's side is taken by its pattern, in units of their names", () => {
  const text = output({ error: 0, read: reads, write: idle });
  expect(parseFio(text, workload)).toEqual({ iops: 1000, mib_s: 3.90625, p99_us: 12.5 });
  expect(() => parseFio(text, { ...workload, pattern: 'randwrite' })).toThrow(/no figures/);
});

test('notes before the JSON are passed over', () => {
  const text = `note: both iodepth >= 1 and synchronous I/O engine\n${output({ error: 0, read: reads })}`;
  expect(parseFio(text, workload).iops).toBe(1000);
});

test('a job that failed, none, two, or no JSON is an error that shows what fio said', () => {
  expect(() => parseFio(output({ error: 5, read: reads }), workload)).toThrow(/error 5: \{"fio/);
  expect(() => parseFio('{"jobs":[]}', workload)).toThrow(/number of jobs/);
  expect(() => parseFio('{"jobs":[{},{}]}', workload)).toThrow(/number of jobs/);
  expect(() => parseFio('fio: failed opening blockdev', workload)).toThrow(/no JSON: fio: failed/);
});

test('fio is told the device, past its cache, and has its times and more to come to an end', async () => {
  const calls: { command: readonly string[]; timeoutMs: number | undefined }[] = [];
  const guest = {
    check: async (command: readonly string[], options?: { timeoutMs?: number }) => {
      calls.push({ command, timeoutMs: options?.timeoutMs });
      return output({ error: 0, read: reads });
    },
  };
  await runFio(guest, '/dev/nvme1n1', workload, times);
  expect(calls[0]?.command).toEqual(fioCommand('/dev/nvme1n1', workload, times));
  expect(calls[0]?.command).toEqual(
    expect.arrayContaining([
      ...['--filename=/dev/nvme1n1', '--direct=1', '--rw=randread', '--bs=4096', '--iodepth=32'],
      ...['--runtime=2000ms', '--ramp_time=300ms'],
    ]),
  );
  expect(calls[0]?.timeoutMs).toBeGreaterThan(2300);
});
