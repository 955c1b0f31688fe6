/**
 * KVM where it is shown to work, else TCG. That /dev/kvm opens shows nothing: on some nested hosts
 * a kernel stops in the middle with an emulation failure. So the probe boots the real kernel.
 */
import { accessSync, constants, readFileSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cacheRoot } from '../setup/part-cache.ts';
import type { Parts } from '../setup/parts.ts';
import { type Accelerator, qemuCommand } from './qemu-command.ts';
import { firstChannel, QemuProcess } from './qemu-process.ts';
import { QmpClient } from './qmp.ts';
import { SerialConsole } from './serial.ts';
import { VmError } from './vm-error.ts';

export interface AcceleratorVerdict {
  readonly accelerator: Accelerator;
  /** A sentence: what was seen. */
  readonly why: string;
}

/** A kernel on a working KVM needs one second, nested three. */
const probeTimeoutMs = 8000;
/** Until its first word; a nested KVM that emulates each instruction stays in the firmware. */
const firstWordTimeoutMs = 3000;

/**
 * @param requested an accelerator to be taken as asked, or `auto`
 * @throws VmError where KVM is asked for and does not work
 */
export async function chooseAccelerator(
  parts: Pick<Parts, 'qemu' | 'kernel'>,
  requested: Accelerator | 'auto' = 'auto',
  cache = cacheRoot(),
): Promise<AcceleratorVerdict> {
  if (requested === 'tcg') return { accelerator: 'tcg', why: 'TCG was asked for' };
  const verdict = openable() ?? (await remembered(parts, cache));
  if (requested === 'kvm' && verdict.accelerator !== 'kvm') {
    throw new VmError(`expected KVM to work, as it was asked for, but ${verdict.why}`);
  }
  return verdict;
}

function openable(): AcceleratorVerdict | undefined {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error);
    return { accelerator: 'tcg', why: `/dev/kvm cannot be opened (${code})` };
  }
}

/** Of so many the verdict is remembered: a matrix of kernels would ask again at every turn. */
const rememberedMax = 8;

/** The verdict holds for one boot of the host, one QEMU and one kernel. */
async function remembered(
  parts: Pick<Parts, 'qemu' | 'kernel'>,
  cache: string,
): Promise<AcceleratorVerdict> {
  const key = [
    readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    parts.qemu.version,
    parts.qemu.command.join(' '),
    parts.kernel.release,
  ].join('\n');
  const file = join(cache, 'accelerator.json');
  // None, or one that is not ours: then it is found anew.
  const known = await readFile(file, 'utf8')
    .then(parseVerdicts)
    .catch(() => []);
  const same = known.find((one) => one.key === key);
  if (same !== undefined) return { accelerator: same.accelerator, why: same.why };
  const verdict = await probeKvm(parts);
  await mkdir(cache, { recursive: true });
  const temporary = `${file}.${process.pid}`;
  const kept = [{ key, ...verdict }, ...known].slice(0, rememberedMax);
  await writeFile(temporary, JSON.stringify(kept, null, 2));
  await rename(temporary, file);
  return verdict;
}

/**
 * Boots the kernel without a root: one that works gets as far as to panic for the lack of it, which
 * ends QEMU.
 */
export async function probeKvm(
  parts: Pick<Parts, 'qemu' | 'kernel'>,
  timeoutMs = probeTimeoutMs,
): Promise<AcceleratorVerdict> {
  const command = qemuCommand(parts.qemu, {
    machine: 'q35',
    accelerator: 'kvm',
    cpus: 1,
    memory: { kind: 'memfd', bytes: 256 * 2 ** 20 },
    boot: {
      kind: 'kernel',
      image: parts.kernel.vmlinux,
      arguments: ['console=ttyS0', 'earlyprintk=ttyS0', 'panic=-1', 'nokaslr'],
    },
    devices: [],
    console: { kind: 'descriptor', fd: firstChannel },
    qmp: { kind: 'descriptor', fd: firstChannel + 1 },
  }) as [string, ...string[]];
  const process = new QemuProcess(command, parts.qemu.env, 2);
  const console = new SerialConsole(process.channels[0]!);
  const timers: NodeJS.Timeout[] = [];
  const slow = new Promise<string>((resolve) => {
    const checkFirst = () => {
      if (console.log !== '') return;
      resolve(`a kernel on it said nothing within ${firstWordTimeoutMs / 1000} s`);
    };
    const say = () => resolve(`a kernel on it did not reach init within ${timeoutMs / 1000} s`);
    timers.push(setTimeout(checkFirst, firstWordTimeoutMs), setTimeout(say, timeoutMs));
  });
  try {
    const stopped = QmpClient.connect(process.channels[1]!, timeoutMs).then(
      (qmp) => stopReason(qmp, timeoutMs),
      () => process.exited.then(() => 'QEMU ended at once'),
    );
    const got = await Promise.race([process.exited.then(() => 'ended'), stopped, slow]);
    if (console.panic?.includes('VFS')) {
      return { accelerator: 'kvm', why: 'a kernel on it came to its end' };
    }
    const tail = process.stderr.trim().split('\n')[0] ?? '';
    const said = tail === '' ? '' : ` (QEMU said: ${tail.slice(0, 200)})`;
    const what = got === 'ended' ? 'QEMU ended before the kernel did' : got;
    return { accelerator: 'tcg', why: `KVM does not work here: ${what}${said}` };
  } finally {
    for (const timer of timers) clearTimeout(timer);
    await process.endNow();
  }
}

/** QEMU pauses a guest that KVM cannot go on with; it may have before anyone listened. */
async function stopReason(qmp: QmpClient, timeoutMs: number): Promise<string> {
  const paused = qmp.event('STOP', timeoutMs).then(() => {});
  paused.catch(() => {}); // raced below
  const status = await qmp.execute('query-status').catch(() => undefined);
  const before = JSON.stringify(status) ?? '';
  if (!before.includes('"running":false')) await paused.catch(() => new Promise(() => {}));
  return 'QEMU stopped the guest in the middle of its boot';
}

function parseVerdicts(text: string): readonly (AcceleratorVerdict & { readonly key: string })[] {
  const list: unknown = JSON.parse(text);
  if (!Array.isArray(list)) return [];
  return list.flatMap(({ key, accelerator, why }: Record<string, unknown>) => {
    if (typeof key !== 'string' || typeof why !== 'string') return [];
    return accelerator === 'kvm' || accelerator === 'tcg' ? [{ key, accelerator, why }] : [];
  });
}
