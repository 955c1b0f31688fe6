/**
 * sealbus as a library: devices (what they are made with also alone, as `sealbus/pci` and
 * `sealbus/virtio`), disks, the machine that all are plugged into, and what it stands on.
 */
export { Edu, type EduOptions } from './devices/edu/edu.ts';
export {
  type IommuCounters,
  VirtioIommu,
  type VirtioIommuOptions,
} from './devices/iommu/virtio-iommu.ts';
export { type Doorbells, doorbellsFor } from './devices/nvme/doorbells.ts';
export type { BlockBytes } from './devices/nvme/namespace.ts';
export { type NamespaceOptions, Nvme, type NvmeOptions } from './devices/nvme/nvme.ts';
export {
  NvmeSubsystem,
  type SubsystemNamespace,
  type SubsystemOptions,
} from './devices/nvme/subsystem.ts';
export type { DeviceTable, DeviceTableEntry } from './iommu/device-table.ts';
export { BlockedDomain, type Domain, IdentityDomain, type Rights } from './iommu/domain.ts';
export type { FaultLog, FaultRecord } from './iommu/fault-log.ts';
export type { HostDomain, HostMapping } from './iommu/host-domain.ts';
export { Iommu } from './iommu/iommu.ts';
export { type AccessSlot, IN_CLEAR, type KeySlot, keySlot } from './keys/key-slot.ts';
export type { KeyOptions, RotateOptions, RotationProgress } from './keys/slot-keeper.ts';
export { KeySlotError, type SlotDescription, type SlotState } from './keys/slot-lifecycle.ts';
export { type VmId, vmId } from './keys/vm-id.ts';
export { type HotPlugOptions, NotInGuestError } from './machine/hot-plug.ts';
export type { KeySlots } from './machine/key-slots.ts';
export {
  IOMMU_ADDRESS,
  Machine,
  type MachineOptions,
  type PluggedFunction,
} from './machine/machine.ts';
export type { MoveOptions } from './machine/move-function.ts';
export type { PageConversion, PageSharing, SharedRanges } from './machine/page-sharing.ts';
export { Platform, type PlatformOptions, type TenantOptions } from './machine/platform.ts';
export type { Tenant } from './machine/tenant.ts';
export { FuseUnavailable } from './memory/fuse/fuse-unavailable.ts';
export { MemoryError } from './memory/guest-memory.ts';
export {
  ConversionError,
  type ConversionOptions,
  type PageRange,
} from './memory/page-conversion.ts';
export * from './pci/index.ts';
export {
  type Bdf,
  formatRequesterId,
  parseRequesterId,
  type RequesterId,
  requesterId,
} from './pci/requester-id.ts';
export { type EnsureOptions, ensureParts } from './setup/ensure-parts.ts';
export type { Parts } from './setup/parts.ts';
export { SetupError } from './setup/setup-error.ts';
export * from './storage/index.ts';
export * from './virtio/index.ts';
export type { GuestOptions } from './vm/guest.ts';
export type { CommandEnd, RunOptions } from './vm/guest-command.ts';
export type { ExecOptions, ExecResult, VirtualMachine } from './vm/virtual-machine.ts';
export { GuestPanicError, QemuEndedError, VmError, VmTimeoutError } from './vm/vm-error.ts';
