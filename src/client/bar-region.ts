import type { RegisterDescription } from '../pci/register/description.ts';
import { decoded, type Width, type Writable } from './little-endian.ts';
import { Region, type RegionPlace } from './region.ts';

/** Registers with fields are objects that have the whole register as `value`. */
interface WithFields {
  readonly value: number | bigint;
}

/** The names that a BAR's registers go by; an element of an array is `name[3]`. */
export type RegisterName<Face> = unknown extends Face
  ? string
  : {
      [K in keyof Face & string]: Face[K] extends number | bigint | WithFields
        ? K
        : Face[K] extends ArrayBufferView
          ? `${K}[${number}]`
          : never;
    }[keyof Face & string];

/** What a register reads as: a number, a bigint of 64 bits, or its fields. */
export type RegisterValue<Face, Name> = unknown extends Face
  ? unknown
  : Name extends keyof Face
    ? Readonly<Face[Name]>
    : Name extends `${infer Array}[${number}]`
      ? Array extends keyof Face
        ? Face[Array] extends BigUint64Array
          ? bigint
          : number
        : never
      : never;

/** What may be written to it: all of it as one number, or fields, of which those left out are 0. */
export type RegisterInput<Face, Name> = unknown extends Face
  ? Writable | Readonly<Record<string, Writable | boolean>>
  : Name extends keyof Face
    ? Face[Name] extends WithFields
      ? Writable | Readonly<Partial<Omit<Face[Name], 'value'>>>
      : Writable
    : Writable;

/**
 * A BAR of the device. Where the device is hosted in this process its registers go by the names of
 * its definition as well.
 *
 * @typeParam Face the device's own view of the BAR, such as `Adder['bar0']`.
 */
export class BarRegion<Face = unknown> extends Region {
  readonly #registers: readonly RegisterDescription[] | undefined;

  constructor(place: RegionPlace, registers: readonly RegisterDescription[] | undefined) {
    super(place);
    this.#registers = registers;
  }

  /**
   * Reads a register by its name, by one access of its own width.
   * @throws as {@link Region.read8}; Error where it is not known
   */
  async read<Name extends RegisterName<Face>>(name: Name): Promise<RegisterValue<Face, Name>> {
    const { register, offset, width } = this.#find(name);
    const value = decoded(await this.readBytes(offset, width));
    return registerValue(register, value, width) as RegisterValue<Face, Name>;
  }

  /**
   * Writes a register by its name, by one access of its own width: a number, or its fields.
   * @throws as {@link Region.write8}; Error where register or field is not known
   */
  async write<Name extends RegisterName<Face>>(
    name: Name,
    value: RegisterInput<Face, Name>,
  ): Promise<void> {
    const { register, offset, width } = this.#find(name);
    const whole = wholeRegister(register, value as Writable | Readonly<Record<string, unknown>>);
    if (width === 8) await this.write64(offset, whole);
    else if (width === 4) await this.write32(offset, Number(whole));
    else if (width === 2) await this.write16(offset, Number(whole));
    else await this.write8(offset, Number(whole));
  }

  #find(name: string): { register: RegisterDescription; offset: number; width: Width } {
    const registers = this.#registers;
    if (registers === undefined) {
      throw new Error(
        `expected a BAR whose registers have names, got ${this.name}: only a device that Vmm.host() serves ` +
          'has them; use read32(offset) and its like',
      );
    }
    const [, plain = name, element] = /^(.*)\[(\d+)\]$/.exec(name) ?? [];
    const register = registers.find((one) => one.name === plain);
    const index = Number(element ?? 0);
    if (register === undefined || register.access === 'memory' || index >= register.count) {
      throw new Error(`expected a register of ${this.name}, got '${name}': ${namesOf(registers)}`);
    }
    if (element === undefined && register.count > 1) {
      throw new Error(
        `expected an element of the array '${name}', such as '${name}[0]', got all of it`,
      );
    }
    const { offset, stride, width } = register;
    return { register, offset: offset + index * stride, width: width as Width };
  }
}

function registerValue(
  { fields }: RegisterDescription,
  value: bigint,
  width: Width,
): number | bigint | Readonly<Record<string, number | bigint | boolean>> {
  const whole = width === 8 ? value : Number(value);
  const named = Object.entries(fields);
  if (named.length === 0) return whole;
  const values = named.map(([name, { low, bits, flag }]) => {
    const field = Number(BigInt.asUintN(bits, value >> BigInt(low)));
    return [name, flag === true ? field !== 0 : field] as const;
  });
  return { ...Object.fromEntries(values), value: whole };
}

function wholeRegister(
  register: RegisterDescription,
  value: Writable | Readonly<Record<string, unknown>>,
): Writable {
  if (typeof value !== 'object') return value;
  let whole = 0n;
  for (const [name, given] of Object.entries(value)) {
    const field = register.fields[name];
    if (field === undefined) {
      const names = Object.keys(register.fields).join(', ') || 'it has none';
      throw new Error(`expected a field of register '${register.name}', got '${name}': ${names}`);
    }
    const number = typeof given === 'boolean' ? Number(given) : given;
    const exact = typeof number === 'bigint' || Number.isSafeInteger(number);
    const bits = exact ? BigInt(number as Writable) : -1n;
    if (BigInt.asUintN(field.bits, bits) !== bits) {
      throw new RangeError(
        `expected ${field.bits} bits for field '${name}' of register '${register.name}', got ${String(given)}`,
      );
    }
    whole |= bits << BigInt(field.low);
  }
  return whole;
}

function namesOf(registers: readonly RegisterDescription[]): string {
  const names = registers.map(({ name, count, access }) => {
    if (access === 'memory') return `${name} (memory: use readBytes)`;
    return count > 1 ? `${name}[0…${count - 1}]` : name;
  });
  return names.join(', ') || 'it has none';
}
