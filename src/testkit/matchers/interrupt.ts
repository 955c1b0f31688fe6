import type { InterruptEvent } from '../../trace/event.ts';
import { eventsOf } from '../device-journal.ts';
import { type MatcherResult, searchDevice } from './event-matcher.ts';

export interface RaisedWishes {
  readonly times?: number;
}

/**
 * An interrupt that left for the guest: a vector of MSI or MSI-X, `intx` for the pin, or any. One that
 * a fault on demand has lost did not.
 */
export function toHaveRaised(
  device: unknown,
  vector?: number | 'intx',
  { times }: RaisedWishes = {},
): MatcherResult {
  return searchDevice(device, (journal) => ({
    done: `raised ${vector === undefined ? 'an interrupt' : vector === 'intx' ? 'INTA#' : `vector ${vector}`}`,
    wishes: [],
    times,
    plural: 'interrupts',
    events: eventsOf(journal, 'interrupt').filter(({ asserted }) => asserted !== false),
    matches: (event: InterruptEvent) =>
      vector === undefined ||
      (vector === 'intx' ? event.how === 'intx' : event.how !== 'intx' && event.vector === vector),
    show: ({ how, vector: got }) => (how === 'intx' ? 'INTA#' : `${how} vector ${got}`),
  }));
}
