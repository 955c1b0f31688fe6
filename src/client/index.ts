/** A vfio-user client that plays the VMM: a device in a test of milliseconds, without a guest. */
export { SystemError } from '../ffi/system-error.ts';
export type { InterruptKind, VfioUserClient } from '../vfio-user/client/client.ts';
export { ConnectionLost, VfioUserError } from '../vfio-user/client/connection.ts';
export type { InterruptEvent } from '../vfio-user/client/interrupt-event.ts';
export type { BarRegion, RegisterInput, RegisterName, RegisterValue } from './bar-region.ts';
export type { AllocateOptions, ClientMemory } from './client-memory.ts';
export type { CapabilityName, ConfigRegion } from './config-region.ts';
export type { GuestBuffer } from './guest-buffer.ts';
export type { HostedVmm, HostOptions, PlugOptions } from './hosted-vmm.ts';
export type { InterruptChoice } from './interrupts.ts';
export type { Region } from './region.ts';
export { type ConnectOptions, Vmm, type VmmOptions } from './vmm.ts';
