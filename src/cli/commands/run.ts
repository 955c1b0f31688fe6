import { readFileSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import { type FaultChoice, type FaultHandle, FaultPlan } from '../../faults/index.ts';
import { imageWithVirtioIommu, VIOT_FILE } from '../../machine/guest-iommu.ts';
import { IOMMU_ADDRESS, Machine } from '../../machine/machine.ts';
import { formatRequesterId } from '../../pci/requester-id.ts';
import { ensureOptionalPart } from '../../setup/optional-part.ts';
import { ovmfPart } from '../../setup/ovmf.ts';
import type { Parts } from '../../setup/parts.ts';
import { renderProgress } from '../../setup/progress.ts';
import { Trace } from '../../trace/trace.ts';
import { type DiskBoot, type GuestOptions, planGuest } from '../../vm/guest.ts';
import { formatCommand, qemuCommand } from '../../vm/qemu-command.ts';
import type { VirtualMachine } from '../../vm/virtual-machine.ts';
import { type DeviceChoice, makeDevices, parseDevice } from '../device-choice.ts';
import {
  DISKS_ADDRESS,
  type DiskChoice,
  type Disks,
  openDisks,
  parseDisk,
} from '../disk-choice.ts';
import {
  armFaults,
  faultOption,
  faultSeedOption,
  faultSummary,
  strikeTeller,
} from '../fault-choice.ts';
import { tellFaults } from '../fault-lines.ts';
import { beConsole, runInGuest, shutDown } from '../guest-streams.ts';
import { interruptible } from '../interruption.ts';
import { kernelOption } from '../kernel-option.ts';
import { chooseMemory, type MemoryChoice } from '../memory-choice.ts';
import { PhaseDisplay } from '../phase-display.ts';
import { acceleratorOption, memoryOption, sizeOption } from './demo.ts';
import { readyParts } from './setup.ts';

interface RunFlags {
  readonly kernel?: string;
  readonly memory: MemoryChoice;
  readonly size: number;
  readonly accel: 'auto' | 'kvm' | 'tcg';
  readonly cpus: number;
  readonly device?: readonly DeviceChoice[];
  readonly iommu: 'identity' | 'virtio';
  readonly file: Readonly<Record<string, string>>;
  readonly append: readonly string[];
  readonly disk: readonly DiskChoice[];
  readonly firmware: 'seabios' | 'uefi';
  readonly snapshot?: boolean;
  readonly timeout?: number;
  readonly console?: boolean;
  readonly trace?: string;
  readonly fault: readonly FaultChoice[];
  readonly faultSeed?: number;
  readonly dryRun?: boolean;
}

const diskMemoryBytes = 2 ** 30;

export function runCommand(): Command {
  return new Command('run')
    .description('run a command in a guest that has TypeScript devices; its exit code comes back')
    .usage('[options] -- command [arguments...]')
    .argument(
      '[command...]',
      'what to run in the guest; without one a shell, with --disk the console',
    )
    .passThroughOptions()
    .addOption(kernelOption())
    .addOption(memoryOption())
    .addOption(sizeOption())
    .addOption(acceleratorOption())
    .option('--cpus <n>', 'virtual CPUs', wholeNumber, 2)
    .option(
      '--device <which>',
      "a function: 'edu' or FILE.ts[#CLASS], at a place of its own with @BB:DD.F; may be repeated (default: edu, none with --disk)",
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
    .addOption(
      new Option(
        '--disk <file>',
        'boot from this raw image, by our NVMe; FILE,ro is not written to; may be repeated: one ' +
          'namespace each, the first is booted',
      )
        .argParser(parseDisk)
        .default([], 'none'),
    )
    .addOption(
      new Option('--firmware <which>', 'what boots the disk')
        .choices(['seabios', 'uefi'])
        .default('seabios'),
    )
    .option('--snapshot', 'write to copies of the disks, which are gone afterwards')
    .option('--timeout <seconds>', 'end the command after that long, with exit code 124', seconds)
    .addOption(faultOption())
    .addOption(faultSeedOption())
    .option('--console', "show the guest's console on stderr")
    .option('--trace <file>', 'record what the functions do; sealbus report tells what it says')
    .option(
      '--dry-run',
      "print QEMU's command line, with RUN for the run's directory, and start nothing",
    )
    .addHelpText(
      'after',
      '\nWith --disk the guest is what is on the disk; memory is 1G and the IOMMU virtio where nothing' +
        '\nelse is said. Without a command this terminal is its console, until it powers off or reboots,' +
        '\nor you type Ctrl-A X, which pulls the plug. With a command, systemd (256 or later) in it starts' +
        '\nour agent, the command runs once multi-user.target is reached, and then the guest is shut down.' +
        '\nSIGTERM, and Ctrl-C where this terminal is not the guest’s, pull the plug too.' +
        '\n\nExit code: the command’s; 255 where the guest panics, 124 after --timeout.',
    )
    .action(async (words: string[], given: RunFlags, command: Command) => {
      const flags = withDiskDefaults(given, command);
      process.exitCode = await interruptible((signal) => run(words, flags, signal));
    });
}

/** What a Debian needs, where nothing else was said. @throws Error where flags do not go together */
function withDiskDefaults(flags: RunFlags, command: Command): RunFlags {
  const said = (name: keyof RunFlags) => command.getOptionValueSource(name) !== 'default';
  if (flags.disk.length === 0) {
    const alone = (['firmware', 'snapshot'] as const).find(
      (name) => flags[name] !== undefined && said(name),
    );
    if (alone !== undefined) throw new Error(`expected --disk with --${alone}, got none`);
    return flags;
  }
  if (flags.kernel !== undefined) {
    throw new Error(
      'expected no --kernel with --disk, got one: the guest’s kernel is what is on the disk',
    );
  }
  if (flags.append.length > 0) {
    throw new Error(
      'expected no --append with --disk, got one: the disk’s own boot loader has the kernel arguments',
    );
  }
  return {
    ...flags,
    device: flags.device ?? [],
    size: said('size') ? flags.size : diskMemoryBytes,
    iommu: said('iommu') ? flags.iommu : 'virtio',
  };
}

async function run(command: string[], flags: RunFlags, signal: AbortSignal): Promise<number> {
  const fromDisk = flags.disk.length > 0;
  const asConsole = fromDisk && command.length === 0;
  if (asConsole && Object.keys(flags.file).length > 0) {
    throw new Error('expected a command with --disk and --file, got none');
  }
  const parts = await readyParts(signal, flags.kernel);
  const devices = await makeDevices(flags.device ?? parseDevice('edu'));
  const display = new PhaseDisplay();
  const options: Omit<GuestOptions, 'memory'> = {
    ...guestOptions(flags, signal),
    ...(fromDisk ? { disk: await diskBoot(flags, !asConsole, signal) } : {}),
    ...(asConsole ? { onConsole: (chunk: Buffer) => showConsole(display, chunk) } : {}),
  };
  if (flags.dryRun) return await printCommand(parts, devices, flags, options);
  const log = (words: string) => display.say(`sealbus: ${words}`);
  let disks: Disks | undefined;
  let machine: Machine | undefined;
  const plan = faultPlan(flags, log);
  let faults: readonly FaultHandle[] = [];
  try {
    const memory = await chooseMemory(flags.memory, (words) => display.say(words));
    display.begin('starting');
    if (fromDisk) {
      const snapshot = flags.snapshot === true;
      disks = await openDisks(flags.disk, { memory, snapshot, log, signal });
    }
    const { iommu } = flags;
    const instruments = [
      ...(plan === undefined ? [] : [plan]),
      ...(flags.trace === undefined ? [] : [new Trace({ sink: flags.trace })]),
    ];
    machine = await Machine.create({ parts, memory, bytes: flags.size, iommu, instruments, log });
    tellFaults(machine.iommu.faults, log);
    if (disks !== undefined) machine.plug(disks.nvme, DISKS_ADDRESS);
    for (const { endpoint, rid } of devices) machine.plug(endpoint, rid);
    if (plan !== undefined) faults = armFaults(plan, flags.fault, machine.functions);
    const { accelerator } = await machine.plan(options);
    const what = fromDisk ? flags.disk[0]?.path : 'the guest';
    display.begin(`booting ${what} on ${accelerator.accelerator}: ${accelerator.why}`);
    const vm = await machine.boot(options);
    const streams = {
      timeoutMs: flags.timeout === undefined ? undefined : flags.timeout * 1000,
      signal,
    };
    if (asConsole) return await beConsole(vm, streams);
    if (fromDisk) await putFiles(vm, flags.file);
    else if (iommu === 'virtio') await vm.insmod('virtio_iommu');
    display.end();
    const words = command.length > 0 ? command : ['sh', '-l'];
    const exitCode = await runInGuest(vm, words, streams);
    if (fromDisk && vm.console.panic === undefined) await shutDown(vm, { log, signal });
    return exitCode;
  } finally {
    display.end();
    await machine?.[Symbol.asyncDispose]();
    await disks?.[Symbol.asyncDispose]();
    if (plan !== undefined && faults.length > 0) log(faultSummary(plan, faults));
  }
}

/** None where nothing is to go wrong: then nothing stands around the functions. */
function faultPlan(
  { fault, faultSeed: seed }: RunFlags,
  log: (line: string) => void,
): FaultPlan | undefined {
  if (fault.length === 0) {
    if (seed === undefined) return undefined;
    throw new Error('expected --fault with --fault-seed, got none');
  }
  return new FaultPlan({ onStrike: strikeTeller(log), ...(seed === undefined ? {} : { seed }) });
}

async function diskBoot(flags: RunFlags, agent: boolean, signal: AbortSignal): Promise<DiskBoot> {
  if (flags.firmware === 'seabios') return { from: DISKS_ADDRESS, agent };
  const progress = renderProgress();
  try {
    const uefi = await ensureOptionalPart(ovmfPart, { progress: progress.event, signal });
    return { from: DISKS_ADDRESS, agent, uefi };
  } finally {
    progress.end();
  }
}

/** The console is the terminal from its first byte on. */
function showConsole(display: PhaseDisplay, chunk: Buffer): void {
  display.end();
  process.stdout.write(chunk);
}

async function putFiles(vm: VirtualMachine, files: RunFlags['file']): Promise<void> {
  for (const [guest, host] of Object.entries(files)) {
    await vm.writeFile(guest, readFileSync(host));
    await vm.check(['chmod', '755', guest]);
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
  const places = [
    ...(iommu ? [IOMMU_ADDRESS] : []),
    ...(flags.disk.length > 0 ? [DISKS_ADDRESS] : []),
    ...devices.map(({ rid }) => rid),
  ];
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
