import type { TraceEvent, TraceLine } from './event.ts';

/** Says what was expected of a value; undefined where it is so. */
type Check = (value: unknown) => string | undefined;
type Shape = Readonly<Record<string, Check>>;

const text: Check = (value) => (typeof value === 'string' ? undefined : 'a string');
const flag: Check = (value) => (typeof value === 'boolean' ? undefined : 'true or false');
const count: Check = (value) =>
  Number.isSafeInteger(value) && (value as number) >= 0 ? undefined : 'a whole number from 0 on';
const number: Check = (value) => (typeof value === 'number' ? undefined : 'a number');
const address: Check = (value) =>
  typeof value === 'string' && /^0x[0-9a-f]{1,16}$/.test(value)
    ? undefined
    : 'up to 64 bits as 0x and hexadecimal digits';
const digits: Check = (value) =>
  typeof value === 'string' && /^(?:[0-9a-f]{2})*$/.test(value)
    ? undefined
    : 'bytes as hexadecimal digits';
const place: Check = (value) =>
  typeof value === 'string' && /^(?:[0-9a-f]{4}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/.test(value)
    ? undefined
    : 'a requester ID such as 00:05.0';
const value: Check = (given) =>
  address(given) === undefined || digits(given) === undefined
    ? undefined
    : 'a value as 0x and hexadecimal digits, or as bytes';

function oneOf(...words: readonly (string | number)[]): Check {
  return (given) =>
    words.includes(given as string | number) ? undefined : `one of ${words.join(', ')}`;
}

function optional(check: Check): Check {
  return (given) => (given === undefined ? undefined : check(given));
}

function orNull(check: Check): Check {
  return (given) => (given === null ? undefined : check(given));
}

function object(shape: Shape): Check {
  return (given) => {
    if (!isObject(given)) return 'an object';
    for (const [name, check] of Object.entries(shape)) {
      const expected = check(given[name]);
      if (expected !== undefined) return within(name, expected);
    }
    return undefined;
  };
}

/** `'pieces.gpa' to be …` of what is expected of `'gpa'` in `pieces`. */
function within(name: string, expected: string): string {
  return expected.startsWith("'") ? `'${name}.${expected.slice(1)}` : `'${name}' to be ${expected}`;
}

function list(check: Check): Check {
  return (given) => {
    if (!Array.isArray(given)) return 'an array';
    return given.map(check).find((expected) => expected !== undefined);
  };
}

function byName(check: Check): Check {
  return (given) => {
    if (!isObject(given)) return 'an object';
    return Object.values(given)
      .map(check)
      .find((expected) => expected !== undefined);
  };
}

const direction = oneOf('read', 'write');
const bar = oneOf(0, 1, 2, 3, 4, 5);

const register = object({
  ...{ name: text, offset: count, width: count, count, stride: count },
  access: oneOf('read-only', 'write-only', 'read-write', 'memory'),
  fields: byName(object({ low: count, bits: count })),
});

const identity = object({
  ...{ vendor: count, device: count, subsystemVendor: count },
  ...{ subsystem: count, revision: count, classCode: count },
});

/** What each kind of event must have; it may have more. */
const EVENTS: Readonly<Record<TraceEvent['kind'], Shape>> = {
  function: {
    ...{ t: count, rid: place, name: text, identity },
    interrupts: object({ intx: oneOf(0, 1), msi: count, msix: count }),
    bars: list(object({ bar, size: count, registers: list(register) })),
  },
  register: {
    ...{ t: count, rid: place, direction, bar, offset: count, width: count, value },
    ...{ register: optional(text), fields: optional(byName(number)), took: optional(count) },
    sameTurn: optional(flag),
  },
  dma: {
    ...{ t: count, rid: place, direction, iova: address, bytes: count, data: optional(digits) },
    pieces: list(
      object({
        ...{ gpa: address, bytes: count, slot: optional(count), private: flag },
        crosses: optional(flag),
      }),
    ),
  },
  fault: {
    ...{ t: count, rid: place, direction, iova: address, bytes: count, reason: text },
    ...{ slot: optional(count), generation: optional(count) },
  },
  interrupt: {
    ...{ t: count, rid: place, how: oneOf('intx', 'msi', 'msi-x') },
    ...{ vector: optional(count), asserted: optional(flag) },
  },
  'interrupt-mode': { t: count, rid: place, mode: oneOf('none', 'intx', 'msi', 'msi-x') },
  reset: {
    ...{ t: count, rid: place },
    cause: oneOf('function-level', 'device', 'power-state', 'connection-lost'),
    sameTurn: optional(flag),
  },
  alarm: { t: count, rid: place, alarm: count },
  unmodelled: { t: count, rid: place, direction, bar, offset: count, width: count, why: text },
  iommu: {
    ...{ t: count, command: oneOf('attach', 'detach', 'map', 'unmap', 'probe'), status: count },
    ...{ domain: optional(count), endpoint: optional(place), start: optional(address) },
    ...{ end: optional(address), target: optional(address), rights: optional(text) },
  },
  'device-error': { t: count, rid: place, message: text },
  injected: { t: count, rid: place, fault: text, detail: text },
};

const LINES: Readonly<Record<string, Shape>> = {
  ...EVENTS,
  trace: {
    ...{ version: count, epochMs: number, memory: oneOf('sealed', 'plain') },
    dataBytesMax: orNull(count),
  },
  end: { t: count, events: count, dropped: count },
};

/** Every kind of line that there is. */
export const LINE_KINDS: readonly string[] = Object.keys(LINES);

/** @throws Error that says what was expected and what was got */
export function checkLine(given: unknown): TraceLine {
  const kind = isObject(given) ? given.kind : undefined;
  const shape = typeof kind === 'string' && Object.hasOwn(LINES, kind) ? LINES[kind] : undefined;
  if (shape === undefined) {
    throw new Error(`expected an event with one of the known kinds, got ${shortened(given)}`);
  }
  const expected = object(shape)(given);
  if (expected !== undefined) {
    throw new Error(`expected ${expected} in an event of kind '${kind}', got ${shortened(given)}`);
  }
  return given as TraceLine;
}

function isObject(given: unknown): given is Record<string, unknown> {
  return typeof given === 'object' && given !== null && !Array.isArray(given);
}

function shortened(given: unknown): string {
  const words = JSON.stringify(given) ?? String(given);
  return words.length > 120 ? `${words.slice(0, 120)}…` : words;
}
