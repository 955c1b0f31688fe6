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
    says: 'The function is reset in the middle of its work.',
    occasion: 'each DMA, of a batch each access; or each register write of the guest',
    parameters: {
      of: oneOf('what the reset comes into', ['dma', 'write'], 'dma'),
    },
  }),
};

export type ArmedReset = ArmedOf<typeof resetFaults>;
