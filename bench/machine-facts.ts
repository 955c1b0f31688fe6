import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import type { Parts } from '../src/setup/parts.ts';
import { chooseAccelerator } from '../src/vm/accelerator.ts';

/** What the figures were had on. */
export interface MachineFacts {
  readonly cpu: string;
  readonly cpus: number;
  readonly memory_bytes: number;
  readonly kernel: string;
  readonly node: string;
  readonly openssl: string;
  readonly qemu: string;
  readonly libvfioUser: string;
  readonly guestKernel: string;
  readonly accelerator: string;
  /** Why that one. */
  readonly acceleratorReason: string;
  /** Of the last minute when the run began: others' work disturbs. */
  readonly loadBefore: number;
}

export async function machineFacts(parts: Parts): Promise<MachineFacts> {
  const { accelerator, why } = await chooseAccelerator(parts);
  return {
    cpu: cpus()[0]?.model.trim() || processorModel(),
    cpus: availableParallelism(),
    memory_bytes: totalmem(),
    kernel: release(),
    node: process.version,
    openssl: process.versions.openssl,
    qemu: parts.qemu.version,
    libvfioUser: parts.libvfioUser.version,
    guestKernel: parts.kernel.release,
    accelerator,
    acceleratorReason: why,
    loadBefore: Math.round((loadavg()[0] ?? 0) * 100) / 100,
  };
}

function processorModel(): string {
  const text = readFileSync('/proc/cpuinfo', 'utf8');
  return /^model name\s*:\s*(.+)$/m.exec(text)?.[1] ?? 'unknown';
}
