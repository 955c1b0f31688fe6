import type { PciEndpoint } from '../../pci/endpoint.ts';
import type { RegisterEvent } from '../../trace/event.ts';
import { hex } from '../../trace/event-text.ts';
import { type DeviceJournal, eventsOf } from '../device-journal.ts';
import { type MatcherResult, nameOf, type Search, searchDevice } from './event-matcher.ts';

/** A register's value, or some of its fields: a flag as true or false, others as numbers. */
export type RegisterValue = number | bigint | Readonly<Record<string, number | boolean>>;

export interface AccessWishes {
  readonly times?: number;
}

/** @param register by its name in the device's definition, an array's element as `name[3]` */
export function toHaveRead(
  device: unknown,
  register: string,
  value?: RegisterValue,
  wishes: AccessWishes = {},
): MatcherResult {
  return searchDevice(device, (journal) =>
    accessSearch(device, journal, { direction: 'read', register, value, ...wishes }),
  );
}

/** As {@link toHaveRead}. */
export function toHaveWritten(
  device: unknown,
  register: string,
  value?: RegisterValue,
  wishes: AccessWishes = {},
): MatcherResult {
  return searchDevice(device, (journal) =>
    accessSearch(device, journal, { direction: 'write', register, value, ...wishes }),
  );
}

interface Access extends AccessWishes {
  readonly direction: 'read' | 'write';
  readonly register: string;
  readonly value: RegisterValue | undefined;
}

function accessSearch(
  device: unknown,
  journal: DeviceJournal,
  { direction, register, value, times }: Access,
): Search<RegisterEvent> {
  checkRegister(device as PciEndpoint, journal, register);
  return {
    done: `had its register ${register} ${direction === 'read' ? 'read' : 'written'}`,
    wishes: value === undefined ? [] : [`with ${shownValue(value)}`],
    times,
    plural: `${direction}s of registers`,
    events: eventsOf(journal, 'register').filter((event) => event.direction === direction),
    matches: (event) => named(event, register) && (value === undefined || holds(event, value)),
    show: (event) =>
      `${direction} ${event.register ?? `BAR ${event.bar} + ${hex(event.offset)}`} = ${event.value}` +
      shownFields(event),
  };
}

/** An access may span several registers: `one, two`. */
function named(event: RegisterEvent, register: string): boolean {
  return event.register?.split(', ').includes(register) ?? false;
}

function holds(event: RegisterEvent, value: RegisterValue): boolean {
  if (typeof value !== 'object') return BigInt(event.value) === BigInt(value);
  return Object.entries(value).every(([field, wanted]) => event.fields?.[field] === Number(wanted));
}

function shownValue(value: RegisterValue): string {
  if (typeof value !== 'object') return hex(value);
  return Object.entries(value)
    .map(([field, wanted]) => `${field} ${Number(wanted)}`)
    .join(', ');
}

function shownFields({ fields }: RegisterEvent): string {
  if (fields === undefined) return '';
  const set = Object.entries(fields).filter(([, value]) => value !== 0);
  return ` (${set.map(([name, value]) => `${name} ${value}`).join(', ') || 'no field set'})`;
}

/** A name that the device does not have would never be found. */
function checkRegister(device: PciEndpoint, journal: DeviceJournal, register: string): void {
  const known = (device.registerMap ?? []).flatMap((bar) => bar ?? []).map(({ name }) => name);
  const name = register.replace(/(\[\d+\]|\+0x[0-9a-f]+)$/, '');
  if (known.length === 0 || known.includes(name)) return;
  throw new TypeError(
    `expected a register of ${nameOf(device, journal)} (${known.join(', ')}), got ${register}`,
  );
}
