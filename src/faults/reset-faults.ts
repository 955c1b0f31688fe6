import type { RequesterId } from '../pci/requester-id.ts';
import { type ArmedOf, faultOn } from './fault.ts';
import { oneOf } from './parameter.ts';

/** What a reset may come into. */
export interface ResetMoment {
  readonly rid: RequesterId;
  readonly direction: 'read' | 'write';
}

export const resetFaults = {
  'reset.during': faultOn<ResetMoment>()({
    says:
      'The function is reset in the middle of its work, as by a function-level reset that the driver did not ' +
      'for: registers and configuration space are as after power-on, and what was in flight is lost.',
    occasion:
      "each DMA: half of its bytes are moved, or half of a batch's accesses; or each of the guest's register " +
      'writes: it arrives, and the reset follows',
    parameters: {
      of: oneOf('what the reset comes into', ['dma', 'write'], 'dma'),
    },
  }),
};

export type ArmedReset = ArmedOf<typeof resetFaults>;
