import type { BootResult } from './boot.ts';
import type { DmaResult } from './dma.ts';
import { type Bar, type Comparison, formatBar } from './figures.ts';
import type { GuestMmioFigure, GuestMmioResult } from './guest-mmio.ts';
import type { GuestTestsResult } from './guest-tests.ts';
import type { MachineFacts } from './machine-facts.ts';
import type { MemoryResult } from './memory.ts';
import type { NvmeResult } from './nvme.ts';
import type { RotationResult } from './rotation.ts';
import type { RotationFioResult } from './rotation-fio.ts';
import type { TraceResult } from './trace.ts';
import type { VmsResult } from './vms.ts';
import type { XtsComparison } from './xts-comparison.ts';

/** What a run found; what was left out, or failed, is missing. */
export interface Report extends Partial<GuestMmioResult> {
  readonly xts?: XtsComparison;
  readonly dma?: DmaResult;
  readonly vms?: VmsResult;
  readonly boot?: BootResult;
  readonly memory?: MemoryResult;
  readonly rotation?: RotationResult;
  readonly trace?: TraceResult;
  readonly guestTests?: GuestTestsResult;
  readonly nvme?: NvmeResult;
  readonly rotationFio?: RotationFioResult;
}

export type Key = keyof Report;

export interface BarResult {
  readonly name: string;
  readonly ratio: number;
  readonly bar: Bar;
  readonly met: boolean;
}

/** Every bar of what was measured. */
export function barsOf(report: Report): BarResult[] {
  const { mmioRead, doorbellToInterrupt, xts, dma, vms, boot, trace, guestTests, nvme } = report;
  const { rotation, rotationFio } = report;
  const named: [string, Comparison | undefined][] = [
    ['MMIO read from the guest', mmioRead],
    ['doorbell to interrupt from the guest', doorbellToInterrupt],
    ...(xts?.sizes ?? []).map((size): [string, Comparison] => [`XTS, ${size.bytes} bytes`, size]),
    ['DMA read of 4 KiB, plain', dma],
    ['IOMMU look-up of 4 KiB', dma?.lookUp],
    ['IOMMU look-up with 4,096 requester IDs', vms?.lookUp],
    ['DMA of the slowest of 8 VMs', vms?.throughput],
    ['boot, sealed', boot],
    ['rotation of 512 MiB', rotation],
    ['MMIO read traced, one core', trace?.placements.oneCore],
    ['MMIO read traced, two cores', trace?.placements.twoCores],
    ['guest test', guestTests],
    ['client test', guestTests?.client],
    ...(nvme?.comparisons ?? []).map((one): [string, Comparison] => [
      `NVMe ${one.workload}, ${one.disk} of ${one.peer}`,
      one,
    ]),
    ...(rotationFio?.figures ?? []).flatMap((one): [string, Comparison][] => [
      [`fio ${one.workload}, rotating with a duty of ${one.duty} %`, one],
      [`rotation with a duty of ${one.duty} % beside fio ${one.workload}`, one.elapsed],
    ]),
  ];
  return named.flatMap(([name, one]) =>
    one === undefined || one.bar === null || one.met === null
      ? []
      : [{ name, ratio: one.ratio, bar: one.bar, met: one.met }],
  );
}

/** For people, on stdout. */
export function printReport(
  machine: MachineFacts,
  report: Report,
  bars: readonly BarResult[],
): void {
  const { cpu, cpus, kernel, node, openssl, qemu, accelerator, loadBefore } = machine;
  console.log(`${cpu}, ${cpus} CPUs, Linux ${kernel}, load ${loadBefore}`);
  console.log(`Node ${node}, OpenSSL ${openssl}, QEMU ${qemu} (${accelerator})\n`);
  for (const [name, { ratio, peer, rounds }] of Object.entries(report)) {
    console.log(`${name}: ${ratio} of ${peer}, ${rounds} rounds`);
  }
  for (const key of ['mmioRead', 'doorbellToInterrupt'] as const) {
    const figure = report[key];
    if (figure !== undefined) printMmio(key, figure);
  }
  if (report.xts !== undefined) {
    console.log(`\nAES-256-XTS, libcrypto ${report.xts.libcrypto}`);
    console.table(report.xts.sizes.map(row));
  }
  if (report.dma !== undefined) printDma(report.dma);
  if (report.vms !== undefined) {
    console.log('\nmany VMs in one process');
    console.table({ lookUp: row(report.vms.lookUp), throughput: row(report.vms.throughput) });
  }
  if (report.memory !== undefined) {
    const { device, controller, cServer, qemu: vmm, bareNode } = report.memory;
    console.log('\nmemory beyond guest RAM and DRAM');
    console.table({ device, controller, cServer, qemu: vmm, bareNode });
  }
  if (report.rotation !== undefined) {
    const { rotation_ms, work_ms, pass_ms } = report.rotation;
    console.log('\na rotation, what it had of the thread, and a plain pass');
    console.table({ rotation_ms, work_ms, pass_ms });
  }
  if (report.trace !== undefined) printTrace(report.trace);
  if (report.guestTests !== undefined) printGuestTests(report.guestTests);
  if (report.nvme !== undefined) printNvme(report.nvme);
  if (report.rotationFio !== undefined) {
    const { figures, pass_ms, loads } = report.rotationFio;
    console.log(`\nfio while the key is rotated; a plain pass: ${pass_ms} ms; load ${loads}`);
    console.table(figures.map((one) => ({ ...row(one), elapsed: one.elapsed.ratio })));
  }
  console.log('\nbars');
  for (const { name, ratio, bar, met } of bars) {
    console.log(`${met ? 'met   ' : 'MISSED'} ${name}: ${ratio} (${formatBar(bar)})`);
  }
}

function printMmio(name: string, { ours, c, client }: GuestMmioFigure): void {
  const onSocket = (whose: 'ours_ns' | 'c_ns') => ({
    socketTwoCores_ns: client.twoCores[whose],
    socketOneCore_ns: client.oneCore[whose],
  });
  console.log(`\n${name}, in the guest, and on the socket without it`);
  console.table({ ours: { ...ours, ...onSocket('ours_ns') }, c: { ...c, ...onSocket('c_ns') } });
}

function printDma({ plain, plainSingle, sealed, batches }: DmaResult): void {
  console.log('\nDmaPort in plain memory, one access after another; the ratio is to a bare copy');
  console.table(plain.map(row));
  console.log('DmaPort in plain memory, single accesses');
  console.table(plainSingle);
  console.log('DmaPort in sealed memory, single accesses; the ratio is to plain');
  console.table(sealed.map(row));
  console.log('DmaPort in sealed memory, an access of a batch of 32; the ratio is to single ones');
  console.table(batches.map(row));
}

function printTrace({ placements, events, fileBytes }: TraceResult): void {
  for (const [placement, figure] of Object.entries(placements)) {
    const { traced, untraced, ratio, meanRatio, noise } = figure;
    console.log(`\na register read in the guest, traced to a file and not, ${placement}`);
    console.table({ traced, untraced });
    console.log(
      `medians ${ratio}, means ${meanRatio}; two untraced ones ${noise.ratio}, means ${noise.meanRatio}`,
    );
  }
  console.log(`${events} events in ${fileBytes} bytes`);
}

function printGuestTests({ times, toBooted }: GuestTestsResult): void {
  console.log(`\none driver test, all of it; saved guests to booted ones ${toBooted.ratio}`);
  console.table(times.map((one) => ({ ...one, rounds_ms: one.rounds_ms.join(' ') })));
}

function printNvme(nvme: NvmeResult): void {
  const { engine, cpus, run_s, rounds, spdk, idleCpuShare, loads } = nvme;
  console.log(`\nfio, ${engine}, ${cpus} vCPU, medians of ${rounds} rounds of ${run_s} s`);
  console.log(`SPDK: ${spdk}; load ${loads.join(', ')}`);
  console.log(`CPU share of guests at rest: ${JSON.stringify(idleCpuShare)}`);
  console.table(nvme.figures.map((one) => ({ ...one, roundsIops: one.roundsIops.join(' ') })));
  console.log('IOPS, of those of a peer');
  console.table(
    nvme.comparisons.map(({ workload, disk, peer, ratio }) => ({ workload, disk, peer, ratio })),
  );
}

/** Without what is the same in each row of a table. */
function row<Row extends Comparison>({ peer, bar, met, rounds, ...rest }: Row) {
  return rest;
}
