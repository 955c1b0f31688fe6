/** What `sealbus serve` is told: VMs, and the functions of each. docs/serving.md has an example. */
import type { KeySlot } from '../../keys/key-slot.ts';
import type { KeyBits } from '../../keys/slot-lifecycle.ts';
import type { RequesterId } from '../../pci/requester-id.ts';
import type { ConfigPlace, Placed } from './config-place.ts';
import type { DiskConfig } from './disk-config.ts';
import type { SubsystemConfig, SubsystemFunctionConfig } from './subsystem-config.ts';

export interface ServeConfig {
  readonly subsystems: readonly SubsystemConfig[];
  readonly vms: readonly VmConfig[];
}

export interface VmConfig {
  readonly place: ConfigPlace;
  /** How commands call it: a-z, 0-9 and -, beginning with a letter. */
  readonly name: string;
  /** Size of guest memory. */
  readonly bytes: number;
  readonly memory: 'sealed' | 'plain';
  readonly key: KeyConfig;
  /** The next free one where there is none. */
  readonly slot: Placed<KeySlot> | undefined;
  readonly iommu: 'identity' | 'virtio';
  /** Of the guest's machine: functions behind them come and go while it runs. */
  readonly rootPorts: number;
  readonly cpus: number;
  /** The function whose disk the printed QEMU boots; our kernel and image where there is none. */
  readonly boot: Placed<RequesterId> | undefined;
  readonly functions: readonly FunctionConfig[];
}

export interface KeyConfig {
  readonly place: ConfigPlace;
  readonly bits: KeyBits;
  /** One of the process that holds the key; a random key where there is none. */
  readonly descriptor: number | undefined;
}

export interface FunctionConfig {
  readonly place: ConfigPlace;
  readonly device: DeviceConfig;
  /** As the guest has it: on bus 0, or behind a root port. */
  readonly at: Placed<RequesterId>;
  /** Where its server listens; in the run's directory where there is none. */
  readonly socket: Placed<string> | undefined;
  /** What it finds its key slot by. */
  readonly slotFrom: Placed<'device-table' | 'translation'> | undefined;
}

export type DeviceConfig =
  | { readonly kind: 'edu' }
  | { readonly kind: 'nvme'; readonly disks: readonly DiskConfig[] }
  | ({ readonly kind: 'subsystem-function' } & SubsystemFunctionConfig)
  | {
      readonly kind: 'module';
      readonly place: ConfigPlace;
      readonly file: string;
      readonly exportName: string | undefined;
    };
