import { ResetAbort } from '../pci/epoch.ts';
import type { Halt } from './fault-site.ts';

/**
 * Ends what a function that a fault has halted still tries to do. For the device's code it is as a reset
 * that has overtaken its work: nothing of that work reaches the guest.
 */
export class HaltAbort extends ResetAbort {
  constructor(halted: Halt) {
    super('device');
    this.message =
      halted === 'stalled'
        ? 'ended by the fault device.stall: the function does nothing until it is reset'
        : 'ended by the fault register.all-ones: the function has been removed';
  }
}
