/**
 * Boots a guest with the devices asked for: that of this repository (the stock kernel, our image), or
 * what is on a disk.
 */
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { OvmfPart, Parts } from '../setup/parts.ts';
import { type AcceleratorVerdict, chooseAccelerator } from './accelerator.ts';
import { agentCredentials } from './agent-service.ts';
import { buildGuestImage, type GuestImageOptions } from './guest-image.ts';
import type {
  Accelerator,
  DirectBoot,
  FirmwareBoot,
  GuestDevice,
  GuestRam,
  VirtualMachineDescription,
} from './qemu-command.ts';
import { bareForm, canResume, dropSavedGuest, type SavedForm, savedGuest } from './saved-guest.ts';
import { VirtualMachine, type VirtualMachineOptions } from './virtual-machine.ts';

export interface GuestOptions
  extends Pick<VirtualMachineOptions, 'bootTimeoutMs' | 'onConsole' | 'signal'> {
  readonly memory?: GuestRam;
  /** 2 where not given. */
  readonly cpus?: number;
  readonly machine?: 'q35' | 'pc';
  /** `auto` where not given: KVM where a probe shows that it works, else TCG. */
  readonly accelerator?: Accelerator | 'auto';
  /** Each server listens on its socket already. */
  readonly devices?: readonly GuestDevice[];
  /** Of a q35; none where not given. */
  readonly rootPorts?: number;
  readonly acpiTables?: readonly string[];
  readonly kernelArguments?: readonly string[];
  readonly image?: GuestImageOptions;
  /** Boots from a disk, in place of the kernel, its arguments and the image. */
  readonly disk?: DiskBoot;
  /**
   * Goes on from a guest that was booted without the devices and saved, and finds them by scanning
   * the bus: half a second in place of three. Boots where it cannot ({@link canResume}).
   */
  readonly resume?: boolean | SavedForm;
}

export interface DiskBoot {
  /** The function whose disk is booted. */
  readonly from: RequesterId;
  /** SeaBIOS where not given. */
  readonly uefi?: OvmfPart;
  /** Whether commands are to run in it; without it, not a line of ours does. */
  readonly agent: boolean;
}

export const memoryDefaultBytes = 512 * 2 ** 20;

/** What is left out of a boot that only has to reach init, and what makes it end. */
const kernelArguments = [
  'console=ttyS0',
  'quiet',
  // A panic ends QEMU (with -no-reboot), after its last word on the console.
  'panic=-1',
  'tsc=reliable',
  'mitigations=off',
  'nokaslr',
  'cryptomgr.notests',
  // Lets pcimem reach the registers of a function that a driver is bound to.
  'iomem=relaxed',
];

/** A Debian under TCG takes half a minute or so, and several times that on a busy host. */
const diskBootTimeoutMs = 300_000;

/** A scan takes a tenth of a second; a function may be slow to answer for its registers. */
const wakeTimeoutMs = 60_000;

export interface GuestPlan {
  readonly description: Omit<VirtualMachineDescription, 'console' | 'agent' | 'qmp'>;
  readonly accelerator: AcceleratorVerdict;
}

/** What {@link bootGuest} would start; builds the image where it must. @throws VmError, SetupError */
export async function planGuest(parts: Parts, options: GuestOptions = {}): Promise<GuestPlan> {
  const [accelerator, boot] = await Promise.all([
    chooseAccelerator(parts, options.accelerator),
    options.disk === undefined ? directBoot(parts, options) : firmwareBoot(options.disk),
  ]);
  return {
    accelerator,
    description: {
      machine: options.machine ?? 'q35',
      accelerator: accelerator.accelerator,
      cpus: options.cpus ?? 2,
      memory: options.memory ?? { kind: 'memfd', bytes: memoryDefaultBytes },
      boot,
      devices: options.devices ?? [],
      ...(options.rootPorts === undefined ? {} : { rootPorts: options.rootPorts }),
      acpiTables: options.acpiTables ?? [],
    },
  };
}

async function directBoot(parts: Parts, options: GuestOptions): Promise<DirectBoot> {
  return {
    kind: 'kernel',
    image: parts.kernel.vmlinux,
    initrd: await buildGuestImage(parts, options.image),
    arguments: [...kernelArguments, ...(options.kernelArguments ?? [])],
  };
}

async function firmwareBoot({ from, uefi, agent }: DiskBoot): Promise<FirmwareBoot> {
  return {
    kind: 'firmware',
    from,
    ...(uefi === undefined ? {} : { uefi }),
    credentials: agent ? await agentCredentials() : [],
  };
}

/** @throws what {@link planGuest} and {@link VirtualMachine.start} do */
export async function bootGuest(parts: Parts, options: GuestOptions = {}): Promise<VirtualMachine> {
  const { description } = await planGuest(parts, options);
  const { disk, onConsole, signal } = options;
  const bootTimeoutMs = options.bootTimeoutMs ?? (disk && diskBootTimeoutMs);
  const start = {
    qemu: parts.qemu,
    description,
    ...(disk === undefined ? {} : { agent: disk.agent && ('service' as const) }),
    ...(bootTimeoutMs === undefined ? {} : { bootTimeoutMs }),
    ...(onConsole === undefined ? {} : { onConsole }),
    ...(signal === undefined ? {} : { signal }),
  };
  const form = options.resume === true ? bareFormOf(parts, description) : options.resume;
  return form && canResume(description)
    ? await resumeGuest(form, start)
    : await VirtualMachine.start(start);
}

/** None where a table of the firmware names devices: a guest saved without does not know them. */
function bareFormOf(parts: Parts, description: GuestPlan['description']): SavedForm | undefined {
  const { acpiTables = [] } = description;
  return acpiTables.length === 0 ? bareForm(parts.qemu, description) : undefined;
}

/**
 * Devices that came while the guest was saved are found by a scan, and decode their BARs as firmware
 * leaves them that no driver has taken yet (bits 0 and 1 of the command register, PCI Local Bus 3.0
 * §6.2.2). The clock is put right.
 */
const wakeScript = `echo 1 > /sys/bus/pci/rescan
date -u -s "@$1" > /dev/null
shift
cd /sys/bus/pci/devices
for function; do
  [ -e $function/driver ] ||
    printf '\\003' | dd of=$function/config bs=1 seek=4 conv=notrunc 2> /dev/null
done`;

async function resumeGuest(form: SavedForm, start: VirtualMachineOptions): Promise<VirtualMachine> {
  const state = await savedGuest(form, start);
  let vm: VirtualMachine | undefined;
  try {
    vm = await VirtualMachine.start({ ...start, state });
    const script = [...(form.afterLoading ? [form.afterLoading] : []), wakeScript].join('\n');
    const now = String(Math.floor(Date.now() / 1000));
    const functions = start.description.devices.map(({ address }) => formatRequesterId(address));
    await vm.check(['sh', '-c', script, 'sh', now, ...functions], { timeoutMs: wakeTimeoutMs });
    return vm;
  } catch (error) {
    await vm?.stop();
    if (vm === undefined && !start.signal?.aborted) throw didNotLoad(state, error);
    throw error;
  }
}

/** The file goes: the next guest boots, and leaves another. */
function didNotLoad(state: string, error: unknown): unknown {
  dropSavedGuest(state);
  if (error instanceof Error) {
    error.message = `the saved guest ${state} did not load, and was removed: run it again. ${error.message}`;
  }
  return error;
}
