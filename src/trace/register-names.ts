import { AccessLine } from './access-line.ts';
import type { TracedBar, TracedRegister } from './event.ts';

/** A field as it lies in the value of an access, lowest bit of the access first. */
export interface FieldPlace {
  readonly name: string;
  readonly low: number;
  readonly bits: number;
}

/** What an access reached. */
export interface AccessNames {
  /** With an element's index or a place in memory; several with a comma between. */
  readonly register: string | undefined;
  readonly fields: readonly FieldPlace[];
  /** As declared: arrays as a whole. */
  readonly registers: readonly TracedRegister[];
}

/** A register, or an element of an array. */
interface Place {
  readonly register: TracedRegister;
  readonly index: number;
  readonly offset: number;
}

/** Names, and what they come to in a line of the trace. */
interface Known {
  readonly names: AccessNames;
  readonly line: AccessLine;
}

const NOTHING: AccessNames = { register: undefined, fields: [], registers: [] };
/** Accesses of other places and widths than these many are looked up each time. */
const KNOWN_MAX = 4096;

/** The registers of one function by bar, offset and width of an access, as a trace names them. */
export class RegisterNames {
  readonly rid: string;
  readonly #bars = new Map<number, readonly TracedRegister[]>();
  readonly #known = new Map<number, Known>();

  /** @param rid of the function, as a trace has it */
  constructor(rid: string, bars: readonly TracedBar[]) {
    this.rid = rid;
    for (const { bar, registers } of bars) this.#bars.set(bar, registers);
  }

  /** @param width bytes of the access */
  of(bar: number, offset: number, width: number): AccessNames {
    return this.#look(bar, offset, width).names;
  }

  line(bar: number, offset: number, width: number): AccessLine {
    return this.#look(bar, offset, width).line;
  }

  #look(bar: number, offset: number, width: number): Known {
    // Exact up to BARs of 2^46 bytes, and what a wider one shares is not remembered.
    const key = width <= 8 && offset < 2 ** 46 ? (offset * 16 + width) * 8 + bar : undefined;
    const known = key === undefined ? undefined : this.#known.get(key);
    if (known !== undefined) return known;
    const names = this.#find(bar, offset, width);
    const found = { names, line: new AccessLine(this.rid, bar, offset, width, names) };
    if (key !== undefined && this.#known.size < KNOWN_MAX) this.#known.set(key, found);
    return found;
  }

  #find(bar: number, offset: number, width: number): AccessNames {
    const end = offset + width;
    const registers = (this.#bars.get(bar) ?? []).filter(
      (register) => placesIn(register, offset, end, 1).length > 0,
    );
    const places = registers
      .flatMap((register) => placesIn(register, offset, end, PLACES_MAX))
      .slice(0, PLACES_MAX);
    const [only, ...more] = places;
    if (only === undefined) return NOTHING;
    if (more.length > 0) {
      const names = places.map((place) => nameOf(place, offset));
      return { register: names.join(', '), fields: [], registers };
    }
    const shift = (offset - only.offset) * 8;
    const fields = Object.entries(only.register.fields).map(([name, { low, bits }]) => {
      return { name, low: low - shift, bits };
    });
    return {
      register: nameOf(only, offset),
      fields: fields.filter(({ low, bits }) => low >= 0 && low + bits <= width * 8),
      registers,
    };
  }
}

/** So many names of one access are written out; longer accesses reach more. */
const PLACES_MAX = 8;

/** The first elements of a register, up to `max`, that lie in `[offset, end)`, if only in part. */
function placesIn(register: TracedRegister, offset: number, end: number, max: number): Place[] {
  const { width, count, stride } = register;
  const places: Place[] = [];
  const first = Math.max(0, Math.ceil((offset - register.offset - width + 1) / stride));
  for (let index = first; index < count && places.length < max; index++) {
    const at = register.offset + index * stride;
    if (at >= end) break;
    places.push({ register, index, offset: at });
  }
  return places;
}

function nameOf({ register, index, offset }: Place, at: number): string {
  const { name, count, access } = register;
  if (access === 'memory') return `${name}+0x${Math.max(0, at - offset).toString(16)}`;
  return count > 1 ? `${name}[${index}]` : name;
}
