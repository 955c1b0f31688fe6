import type { PciEndpoint } from '../pci/endpoint.ts';
import type { RegisterDescription } from '../pci/register/description.ts';

/** Bits of a BAR. */
export interface RegisterPlace {
  readonly bar: number;
  /** Bytes from the start of the BAR. */
  readonly offset: number;
  /** Bytes. */
  readonly width: number;
  /** Of those bytes, as a little-endian number: the bits that are meant. */
  readonly mask: bigint;
}

/**
 * The place of `status`, `status.computing` or `slots[3]` in a function.
 * @throws RangeError where it has none of that name
 */
export function placeOfRegister(device: PciEndpoint, name: string): RegisterPlace {
  const [, register = '', index, field] = /^([^.[\]]+)(?:\[(\d+)\])?(?:\.(.+))?$/.exec(name) ?? [];
  const map = device.registerMap ?? [];
  for (const [bar, registers] of map.entries()) {
    const found = registers?.find((one) => one.name === register);
    if (found !== undefined) return placeIn(bar, found, name, index, field);
  }
  const names = map.flatMap((registers) => registers?.map((one) => one.name) ?? []);
  throw new RangeError(
    `expected a register of ${device.constructor.name}, got '${name}': it has ${names.join(', ') || 'none by name'}`,
  );
}

function placeIn(
  bar: number,
  register: RegisterDescription,
  name: string,
  index: string | undefined,
  field: string | undefined,
): RegisterPlace {
  const { width, count, stride, fields } = register;
  if (width > 8)
    throw new RangeError(`expected a register of up to 8 bytes, got memory, '${name}'`);
  const element = index === undefined ? 0 : Number(index);
  if (count > 1 !== (index !== undefined) || element >= count) {
    throw new RangeError(
      count > 1
        ? `expected an element of ${register.name}, [0] to [${count - 1}], got '${name}'`
        : `expected a register that is no array, got '${name}'`,
    );
  }
  const place = { bar, offset: register.offset + element * stride, width };
  if (field === undefined) return { ...place, mask: allBits(width) };
  const bits = fields[field];
  if (bits === undefined) {
    throw new RangeError(
      `expected a field of ${register.name}, got '${name}': it has ${Object.keys(fields).join(', ') || 'none'}`,
    );
  }
  return { ...place, mask: ((1n << BigInt(bits.bits)) - 1n) << BigInt(bits.low) };
}

/** All of so many bytes. */
export function allBits(width: number): bigint {
  return (1n << BigInt(8 * width)) - 1n;
}
