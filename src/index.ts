/**
 * sealbus as a library: devices (also alone, as `sealbus/pci`), the machine they are plugged into, and
 * what it stands on.
 */
export { Edu, type EduOptions } from './devices/edu/edu.ts';
export type { DeviceTable, DeviceTableEntry } from './iommu/device-table.ts';
export { BlockedDomain, type Domain, IdentityDomain, type Rights } from './iommu/domain.ts';
export type { FaultLog, FaultRecord } from './iommu/fault-log.ts';
export { type KeySlot, keySlot } from './keys/key-slot.ts';
export { type VmId, vmId } from './keys/vm-id.ts';
export { Machine, type MachineOptions, type PluggedFunction } from './machine/machine.ts';
export { FuseUnavailable } from './memory/fuse/fuse-unavailable.ts';
export { MemoryError } from './memory/guest-memory.ts';
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
export type { GuestOptions } from './vm/guest.ts';
export type { CommandEnd, RunOptions } from './vm/guest-command.ts';
export type { ExecOptions, ExecResult, VirtualMachine } from './vm/virtual-machine.ts';
export { GuestPanicError, QemuEndedError, VmError, VmTimeoutError } from './vm/vm-error.ts';
