import { readFileSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { imageWithVirtioIommu, VIOT_FILE } from '../../machine/guest-iommu.ts';
import { IOMMU_ADDRESS, Machine } from '../../machine/machine.ts';
import { formatRequesterId } from '../../pci/requester-id.ts';
import type { Parts } from '../../setup/parts.ts';
import { type GuestOptions, planGuest } from '../../vm/guest.ts';
import { formatCommand, qemuCommand } from '../../vm/qemu-command.ts';
import type { VirtualMachine } from '../../vm/virtual-machine.ts';
import { type DeviceChoice, makeDevices, parseDevice } from '../device-choice.ts';
import { interruptible } from '../interruption.ts';
import { chooseMemory, type MemoryChoice } from '../memory-choice.ts';
import { PhaseDisplay } from '../phase-display.ts';
import { acceleratorOption, memoryOption, sizeOption } from './demo.ts';
import { readyParts } from './setup.ts';

interface RunFlags {
  readonly memory: MemoryChoice;
  readonly size: number;
  readonly accel: 'auto' | 'kvm' | 'tcg';
  readonly cpus: number;
  readonly device?: readonly DeviceChoice[];
  readonly iommu: 'identity' | 'virtio';
  readonly file: Readonly<Record<string, string>>;
  readonly append: readonly string[];
  readonly timeout?: number;
  readonly console?: boolean;
  readonly dryRun?: boolean;
}

export function runCommand(): Command {
  return new Command('run')
    .description('run a command in a guest that has TypeScript devices; its exit code comes back')
    .usage('[options] -- command [arguments...]')
    .argument('[command...]', 'what to run in the guest; a shell where there is none')
    .passThroughOptions()
    .addOption(memoryOption())
    .addOption(sizeOption())
    .addOption(acceleratorOption())
    .option('--cpus <n>', 'virtual CPUs', wholeNumber, 2)
    .option(
      '--device <which>',
      "a function: 'edu' or FILE.ts[#CLASS], at a place of its own with @BB:DD.F; may be repeated (default: edu)",
      parseDevice,
    )
    .addOption(
      new Option(
        '--iommu <which>',
        'virtio: the guest’s virtio-iommu driver maps what devices may reach; identity: all of it',
      )
        .choices(['identity', 'virtio'])
        .default('identity'),
    )
    .addOption(
      new Option('--file <host:guest>', 'copy a file into the guest; may be repeated')
        .argParser(parseFile)
        .default({}, 'none'),
    )
    .addOption(
      new Option('--append <argument>', 'one more kernel argument; may be repeated')
        .argParser(append)
        .default([], 'none'),
    )
    .option('--timeout <seconds>', 'end the command after that long, with exit code 124', seconds)
    .option('--console', "show the guest's console on stderr")
    .option(
      '--dry-run',
      "print QEMU's command line, with RUN for the run's directory, and start nothing",
    )
    .addHelpText(
      'after',
      '\nExit code: the command’s; 255 where the guest panics, 124 after --timeout.',
    )
    .action(async (command: string[], flags: RunFlags) => {
      process.exitCode = await interruptible((signal) => run(command, flags, signal));
    });
}

async function run(command: string[], flags: RunFlags, signal: AbortSignal): Promise<number> {
  const parts = await readyParts(signal);
  const devices = await makeDevices(flags.device ?? parseDevice('edu'));
  const options = guestOptions(flags, signal);
  if (flags.dryRun) return await printCommand(parts, devices, flags, options);
  const display = new PhaseDisplay();
  const log = (words: string) => display.say(`sealbus: ${words}`);
  let machine: Machine | undefined;
  try {
    const memory = await chooseMemory(flags.memory, (words) => display.say(words));
    display.begin('starting');
    const { iommu } = flags;
    machine = await Machine.create({ parts, memory, bytes: flags.size, iommu, log });
    machine.iommu.faults.onFault(({ direction, length, iova, reason }) =>
      log(`IOMMU fault: ${direction} of ${length} bytes at 0x${iova.toString(16)}: ${reason}`),
    );
    for (const { endpoint, rid } of devices) machine.plug(endpoint, rid);
    const { accelerator } = await machine.plan(options);
    display.begin(`booting the guest on ${accelerator.accelerator}: ${accelerator.why}`);
    const vm = await machine.boot(options);
    if (iommu === 'virtio') await vm.insmod('virtio_iommu');
    display.end();
    return await runInGuest(vm, command, flags, signal);
  } finally {
    display.end();
    await machine?.[Symbol.asyncDispose]();
  }
}

function guestOptions(flags: RunFlags, signal: AbortSignal): Omit<GuestOptions, 'memory'> {
  const files = Object.entries(flags.file).map(([guest, host]) => {
    return [guest.replace(/^\/+/, ''), { bytes: readFileSync(host), mode: 0o755 }] as const;
  });
  return {
    accelerator: flags.accel,
    cpus: flags.cpus,
    kernelArguments: flags.append,
    image: { files: Object.fromEntries(files) },
    signal,
    ...(flags.console ? { onConsole: (chunk: Buffer) => void process.stderr.write(chunk) } : {}),
  };
}

/** RUN stands for the directory that a run makes for itself: sockets and memory are in it. */
async function printCommand(
  parts: Parts,
  devices: Awaited<ReturnType<typeof makeDevices>>,
  flags: RunFlags,
  options: Omit<GuestOptions, 'memory'>,
): Promise<number> {
  const { size: bytes } = flags;
  const iommu = flags.iommu === 'virtio';
  const places = [...(iommu ? [IOMMU_ADDRESS] : []), ...devices.map(({ rid }) => rid)];
  const { description } = await planGuest(parts, {
    ...options,
    memory:
      flags.memory === 'plain'
        ? { kind: 'memfd', bytes }
        : { kind: 'file', bytes, path: 'RUN/ram/vm1' },
    acpiTables: iommu ? [`RUN/${VIOT_FILE}`] : [],
    ...(iommu ? { image: imageWithVirtioIommu(parts.kernel, options.image) } : {}),
    devices: places.map((rid) => ({
      kind: 'vfio-user',
      address: rid,
      socket: `RUN/${formatRequesterId(rid).replaceAll(/[:.]/g, '-')}.sock`,
    })),
  });
  const words = qemuCommand(parts.qemu, { ...description, console: { kind: 'stdio' } });
  process.stdout.write(`${formatCommand(words, parts.qemu.env)}\n`);
  return 0;
}

/** A terminal on both sides where there is one here, else three streams that keep apart. */
async function runInGuest(
  vm: VirtualMachine,
  command: string[],
  flags: RunFlags,
  signal: AbortSignal,
): Promise<number> {
  const { stdin, stdout, stderr } = process;
  const interactive = stdin.isTTY === true && stdout.isTTY === true;
  const size = () => ({ rows: stdout.rows ?? 24, columns: stdout.columns ?? 80 });
  const running = vm.start(command.length > 0 ? command : ['sh', '-l'], {
    stdin,
    stdout,
    stderr,
    ...(interactive ? { terminal: size() } : {}),
    ...(flags.timeout === undefined ? {} : { timeoutMs: flags.timeout * 1000 }),
  });
  const onResize = () => running.resize(size().rows, size().columns);
  let stop: (reason: unknown) => void = () => {};
  const stopped = new Promise<never>((_resolve, reject) => {
    stop = reject;
  });
  const onAbort = () => stop(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (interactive) {
    stdin.setRawMode(true);
    stdout.on('resize', onResize);
  }
  try {
    const { exitCode, ended } = await Promise.race([running.ended, stopped]);
    // Without a word a command could as well have had that exit code by itself.
    if (ended === 'panicked') stderr.write(`sealbus: ${panicWords(vm)}\n`);
    if (ended === 'timed-out') {
      stderr.write(`sealbus: the command had not ended after ${flags.timeout} s\n`);
    }
    return exitCode;
  } finally {
    signal.removeEventListener('abort', onAbort);
    stdout.off('resize', onResize);
    if (interactive) stdin.setRawMode(false);
    // Input that the command did not take must not keep this process.
    stdin.destroy();
  }
}

function panicWords({ console }: VirtualMachine): string {
  const last = console.lastLines().replaceAll(/^/gm, '  ');
  return `the guest's kernel panicked: ${console.panic}. The console's last lines:\n${last}`;
}

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) {
    throw new InvalidArgumentError('expected a whole number from 1 on');
  }
  return value;
}

function seconds(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value <= 86_400)) {
    throw new InvalidArgumentError('expected seconds, more than 0 and at most 86400');
  }
  return value;
}

function append(text: string, before: readonly string[]): string[] {
  return [...before, text];
}

function parseFile(text: string, before: Readonly<Record<string, string>>) {
  const [host, guest, ...more] = text.split(':');
  if (!host || !guest?.startsWith('/') || more.length > 0) {
    throw new InvalidArgumentError('expected HOST-PATH:/GUEST-PATH');
  }
  return { ...before, [guest]: host };
}
