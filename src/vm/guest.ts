/** Boots the guest of this repository: the stock kernel, our image, the devices asked for. */
import type { Parts } from '../setup/parts.ts';
import { type AcceleratorVerdict, chooseAccelerator } from './accelerator.ts';
import { buildGuestImage, type GuestImageOptions } from './guest-image.ts';
import type {
  Accelerator,
  GuestDevice,
  GuestRam,
  VirtualMachineDescription,
} from './qemu-command.ts';
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
  readonly acpiTables?: readonly string[];
  readonly kernelArguments?: readonly string[];
  readonly image?: GuestImageOptions;
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

export interface GuestPlan {
  readonly description: Omit<VirtualMachineDescription, 'console' | 'agent' | 'qmp'>;
  readonly accelerator: AcceleratorVerdict;
}

/** What {@link bootGuest} would start; builds the image where it must. @throws VmError, SetupError */
export async function planGuest(parts: Parts, options: GuestOptions = {}): Promise<GuestPlan> {
  const [accelerator, initrd] = await Promise.all([
    chooseAccelerator(parts, options.accelerator),
    buildGuestImage(parts, options.image),
  ]);
  return {
    accelerator,
    description: {
      machine: options.machine ?? 'q35',
      accelerator: accelerator.accelerator,
      cpus: options.cpus ?? 2,
      memory: options.memory ?? { kind: 'memfd', bytes: memoryDefaultBytes },
      kernel: {
        image: parts.kernel.vmlinux,
        initrd,
        arguments: [...kernelArguments, ...(options.kernelArguments ?? [])],
      },
      devices: options.devices ?? [],
      acpiTables: options.acpiTables ?? [],
    },
  };
}

/** @throws what {@link planGuest} and {@link VirtualMachine.start} do */
export async function bootGuest(parts: Parts, options: GuestOptions = {}): Promise<VirtualMachine> {
  const { description } = await planGuest(parts, options);
  const { bootTimeoutMs, onConsole, signal } = options;
  return await VirtualMachine.start({
    qemu: parts.qemu,
    description,
    ...(bootTimeoutMs === undefined ? {} : { bootTimeoutMs }),
    ...(onConsole === undefined ? {} : { onConsole }),
    ...(signal === undefined ? {} : { signal }),
  });
}
