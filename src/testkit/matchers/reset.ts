import type { ResetCause } from '../../pci/endpoint.ts';
import type { ResetEvent } from '../../trace/event.ts';
import { eventsOf } from '../device-journal.ts';
import { type MatcherResult, searchDevice } from './event-matcher.ts';

export interface ResetWishes {
  readonly times?: number;
}

/** A reset of the function, of any cause where none is given. */
export function toHaveReset(
  device: unknown,
  cause?: ResetCause,
  { times }: ResetWishes = {},
): MatcherResult {
  return searchDevice(device, (journal) => ({
    done: 'been reset',
    wishes: cause === undefined ? [] : [`by ${cause}`],
    times,
    plural: 'resets',
    events: eventsOf(journal, 'reset'),
    matches: (event: ResetEvent) => cause === undefined || event.cause === cause,
    show: ({ cause: got }) => got,
  }));
}
