/** What tests say of devices. Each looks at what is on record of the device at that moment. */
import type { ResetCause } from '../../pci/endpoint.ts';
import { type DmaWishes, type FaultWishes, toHaveDma, toHaveFault } from './dma.ts';
import { type RaisedWishes, toHaveRaised } from './interrupt.ts';
import { toHaveNoMappingsLeft } from './mappings.ts';
import { type AccessWishes, type RegisterValue, toHaveRead, toHaveWritten } from './register.ts';
import { type ResetWishes, toHaveReset } from './reset.ts';

export const deviceMatchers = {
  toHaveDma,
  toHaveFault,
  toHaveRaised,
  toHaveRead,
  toHaveWritten,
  toHaveReset,
  toHaveNoMappingsLeft,
};

declare module 'vitest' {
  interface Matchers<R extends void | Promise<void> = void | Promise<void>, T = unknown> {
    /** The device has made a DMA that was done. */
    toHaveDma(wishes?: DmaWishes): R;
    /** The IOMMU has refused a DMA of the device. */
    toHaveFault(wishes?: FaultWishes): R;
    /** An interrupt of the device has left for the guest. */
    toHaveRaised(vector?: number | 'intx', wishes?: RaisedWishes): R;
    /** The guest has read a register of the device, by its name. */
    toHaveRead(register: string, value?: RegisterValue, wishes?: AccessWishes): R;
    /** The guest has written a register of the device, by its name. */
    toHaveWritten(register: string, value?: RegisterValue, wishes?: AccessWishes): R;
    toHaveReset(cause?: ResetCause, wishes?: ResetWishes): R;
    /** What the guest's driver has mapped for the device it has unmapped: with `iommu: 'virtio'`. */
    toHaveNoMappingsLeft(): R;
  }
}
