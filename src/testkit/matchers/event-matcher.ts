/** What the matchers have in common: they look for events of a device in its trace, and count them. */
import { ridText } from '../../trace/event-text.ts';
import { type DeviceJournal, journalOf } from '../device-journal.ts';

export interface MatcherResult {
  readonly pass: boolean;
  message(): string;
}

/** Of events of one kind. */
export interface Search<Event> {
  /** What a device that passes has done: `made a DMA`. */
  readonly done: string;
  /** What more is asked: `direction read`, `12 bytes`. */
  readonly wishes: readonly string[];
  /** Exactly so many; at least one where not given. */
  readonly times: number | undefined;
  /** Of several of them: `DMAs`. */
  readonly plural: string;
  readonly events: readonly Event[];
  matches(event: Event): boolean;
  /** One line. */
  show(event: Event): string;
}

const shownMax = 20;

/** @throws TypeError where `device` is none of this test; RangeError where `times` is no count */
export function searchDevice<Event>(
  device: unknown,
  search: (journal: DeviceJournal) => Search<Event>,
): MatcherResult {
  const journal = journalOf(device);
  const { done, wishes, times, plural, events, matches, show } = search(journal);
  if (times !== undefined && !(Number.isSafeInteger(times) && times >= 0)) {
    throw new RangeError(`expected times to be a whole number from 0 on, got ${times}`);
  }
  const found = events.filter(matches);
  const pass = times === undefined ? found.length > 0 : found.length === times;
  return {
    pass,
    message: () => {
      const what = [done, ...wishes].join(', ');
      const often = times === undefined ? '' : times === 1 ? ' once' : ` ${times} times`;
      return (
        `expected ${nameOf(device, journal)} ${pass ? 'not ' : ''}to have ${what}${often}, ` +
        `got ${found.length} of ${events.length} ${plural}${lines(pass ? found : events, show)}` +
        lost(journal)
      );
    },
  };
}

/** `Adder at 00:04.0`. */
export function nameOf(device: unknown, { rid }: DeviceJournal): string {
  return `${(device as object).constructor.name} at ${ridText(rid)}`;
}

function lines<Event>(events: readonly Event[], show: (event: Event) => string): string {
  if (events.length === 0) return '';
  const last = events.slice(-shownMax);
  const before = events.length - last.length;
  const more = before === 0 ? '' : `\n    (${before} before these)`;
  return `:${more}${last.map((event) => `\n    ${show(event)}`).join('')}`;
}

function lost({ trace }: DeviceJournal): string {
  if (trace.dropped === 0) return '';
  return `\n  The trace was full: ${trace.dropped} events after these are not in it.`;
}
