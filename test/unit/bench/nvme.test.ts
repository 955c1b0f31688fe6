import { expect, test } from 'vitest';
import { comparisonsOf, type DiskName, type NvmeFigure } from '../../../bench/nvme.ts';

function figure(disk: DiskName, workload: NvmeFigure['workload'], iops: number): NvmeFigure {
  return { disk, workload, iops, mib_s: 1, p99_us: 1, roundsIops: [iops] };
}

test('bars are those of plain beside QEMU and sealed beside plain; nothing else has one', () => {
  const workloads = [
    ...(['randomRead1', 'randomRead32', 'randomWrite1'] as const),
    ...(['randomWrite32', 'sequentialRead', 'sequentialWrite'] as const),
  ];
  const figures = workloads.flatMap((workload) => [
    figure('qemu', workload, 100),
    figure('plain', workload, 100),
    figure('sealed', workload, 40),
    figure('sealedIommu', workload, 10),
  ]);
  const bars = comparisonsOf(figures, 3).filter(({ bar }) => bar !== null);
  expect(bars.map(({ disk, workload, ratio, met }) => [disk, workload, ratio, met])).toEqual([
    ['plain', 'randomRead1', 1, true],
    ['plain', 'randomRead32', 1, true],
    ['sealed', 'randomRead32', 0.4, true],
    ['sealed', 'randomWrite32', 0.4, true],
    ['sealed', 'sequentialRead', 0.4, false],
    ['sealed', 'sequentialWrite', 0.4, false],
  ]);
});

test('what was not measured is compared with nothing', () => {
  const figures = [figure('qemu', 'randomRead1', 50), figure('plain', 'randomRead1', 100)];
  const all = comparisonsOf(figures, 3);
  expect(all).toHaveLength(1);
  expect(all[0]).toMatchObject({ disk: 'plain', peer: "QEMU's built-in nvme", ratio: 2 });
});
