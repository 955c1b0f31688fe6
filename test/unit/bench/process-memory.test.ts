import { expect, test } from 'vitest';
import { processMemory, sumMappings } from '../../../bench/process-memory.ts';

const mapping = (path: string, rss: number, pss: number) =>
  `7f0000000000-7f0000001000 rw-s 00000000 00:01 77                         ${path}
Size:                  8 kB
Rss:            ${`${rss}`.padStart(8)} kB
Pss:            ${`${pss}`.padStart(8)} kB
Pss_Dirty:             3 kB
VmFlags: rd wr sh mr mw me ms sd`;

test('guest RAM is told apart by its path, with spaces and all; the rest is summed', () => {
  const smaps = [
    mapping('/usr/bin/node', 100, 50),
    mapping('/memfd:sealbus-dram-vm1 (deleted)', 4000, 2000),
    mapping('', 10, 10),
    mapping('[heap]', 1, 1),
  ].join('\n');
  expect(sumMappings(smaps, (path) => path.startsWith('/memfd:sealbus-dram'))).toEqual({
    rss_bytes: 111 * 1024,
    pss_bytes: 61 * 1024,
    guestRam_bytes: 4000 * 1024,
  });
});

test('it agrees with what the kernel says of a process as a whole', () => {
  const { rss_bytes, pss_bytes, guestRam_bytes } = processMemory(process.pid, () => false);
  expect(guestRam_bytes).toBe(0);
  expect(pss_bytes).toBeLessThanOrEqual(rss_bytes);
  const rss = process.memoryUsage.rss();
  expect(rss_bytes / rss).toBeGreaterThan(0.8);
  expect(rss_bytes / rss).toBeLessThan(1.25);
});

test('an empty text is a process that is gone', () => {
  expect(() => sumMappings('', () => false)).toThrow(/live process/);
});
