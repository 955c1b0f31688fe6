import { fieldValue } from '../trace/access-line.ts';
import type { RegisterEvent } from '../trace/event.ts';
import type { RegisterNames } from '../trace/register-names.ts';
import { ReplayError } from './replay-stop.ts';

/** Accesses of up to so many bytes have their value as a number in a trace. */
const NUMBER_BYTES = 8;
/** The longest access that a vfio-user message carries here, and then some. */
const WIDTH_MAX = 2 ** 20;

/** The bytes of an access, lowest address first. @throws ReplayError where the value has not its width */
export function accessBytes({ value, width, bar, offset }: RegisterEvent): Uint8Array {
  const digits = value.startsWith('0x') ? value.slice(2).padStart(width * 2, '0') : value;
  if (width < 1 || width > WIDTH_MAX || digits.length !== width * 2) {
    throw new ReplayError(
      `expected a value of ${width} bytes for the access to BAR${bar}+0x${offset.toString(16)} in the trace, ` +
        `got ${value}`,
    );
  }
  const bytes = Buffer.from(digits, 'hex');
  return value.startsWith('0x') ? bytes.reverse() : bytes;
}

/** What an access carries, as a trace would have it. */
export function accessValue(
  bytes: Uint8Array,
  { bar, offset, width }: RegisterEvent,
  names: RegisterNames,
): Pick<RegisterEvent, 'value' | 'fields'> {
  if (bytes.length > NUMBER_BYTES) return { value: Buffer.from(bytes).toString('hex') };
  const words = new DataView(new ArrayBuffer(NUMBER_BYTES));
  new Uint8Array(words.buffer).set(bytes);
  const [low, high] = [words.getUint32(0, true), words.getUint32(4, true)];
  const { fields } = names.of(bar, offset, width);
  return {
    value: `0x${words.getBigUint64(0, true).toString(16)}`,
    fields: Object.fromEntries(fields.map((field) => [field.name, fieldValue(field, low, high)])),
  };
}
