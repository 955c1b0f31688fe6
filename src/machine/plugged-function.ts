import type { IommuDmaPort } from '../iommu/iommu-dma-port.ts';
import type { PlainMemory } from '../memory/plain-memory.ts';
import type { SealedMemory } from '../memory/sealed-memory.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { VfioUserServer } from '../vfio-user/server.ts';
import type { Machine } from './machine.ts';

/** A function in its place: the requester ID, the port it got, and where QEMU finds it. */
export interface PluggedFunction {
  readonly machine: Machine;
  /** As the IOMMU and its faults have it, on the VM's segment. */
  readonly rid: RequesterId;
  /** As the guest and its QEMU have it, on segment 0. */
  readonly address: RequesterId;
  /** As it was plugged in, without what instruments put around it. */
  readonly endpoint: PciEndpoint;
  readonly port: IommuDmaPort;
  /** Guest memory as this function's VMM connection has it; for looking, past the IOMMU. */
  readonly memory: PlainMemory | SealedMemory;
  readonly server: VfioUserServer;
}
