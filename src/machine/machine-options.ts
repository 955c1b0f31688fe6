import type { KeySlot } from '../keys/key-slot.ts';
import type { Parts } from '../setup/parts.ts';
import type { Instrument } from './instrument.ts';
import type { Platform } from './platform.ts';

export interface MachineOptions {
  /** libvfio-user alone is enough for a machine that never boots a guest. */
  readonly parts: Parts | Pick<Parts, 'libvfioUser'>;
  /** What it stands on, beside other VMs. Without one it has one of its own, which ends with it. */
  readonly platform?: Platform;
  /** How guest memory is held; `plain` encrypts nothing. A platform that is given has to be able to seal. */
  readonly memory: 'sealed' | 'plain';
  /** Size of guest memory, in whole MiB. */
  readonly bytes: number;
  readonly keyBits?: 128 | 256;
  /** The VM's own key slot. Default: the next free one. */
  readonly slot?: KeySlot;
  /** A descriptor that holds its key (see KeySlots.load), which stays the caller's. Default: a random key. */
  readonly keyDescriptor?: number;
  /**
   * What a function's addresses are before it is behind anything else: `identity` (default) takes
   * them for guest-physical ones; with `virtio` there is a virtio-iommu at {@link IOMMU_ADDRESS},
   * which the guest's own driver programs, and every other function is behind it.
   */
  readonly iommu?: 'identity' | 'virtio';
  /**
   * Root ports of the guest's machine, 0 to 16: behind port n is place 00.0 of bus n, where a function may come and
   * go while the guest runs. They have the first places from 00:01.0 on. Default: none.
   */
  readonly rootPorts?: number;
  /**
   * With a virtio-iommu: the firmware's table names every place where a function may come, not only
   * those that have one. For guests that go on with other functions than they booted with.
   */
  readonly lateFunctions?: boolean;
  /**
   * What watches or disturbs it, from the device outwards: the last one stands next to the guest, and
   * sees what the ones before it made of a device's answers. Of a platform's other VMs they see nothing.
   */
  readonly instruments?: readonly Instrument[];
  /** What went wrong and could be lived with. Default: standard error. */
  readonly log?: (message: string) => void;
}

/** @throws Error where a machine of these options cannot stand on that platform */
export function checkShared(platform: Platform, { memory }: MachineOptions): void {
  if (memory === 'sealed' && platform.mode === 'plain') {
    throw new Error(
      'expected a VM with plain memory on a platform without a memory controller, got one with sealed',
    );
  }
}
