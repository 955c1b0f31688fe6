import type { LineBuffer } from './line-buffer.ts';
import type { AccessNames, FieldPlace } from './register-names.ts';

/** What stands in an access's line beside numbers. */
interface Parts {
  readonly read: Uint8Array;
  readonly write: Uint8Array;
  /** From the value to the first number behind it. */
  readonly register: Uint8Array;
  /** Before each field's value; the first one opens the object. */
  readonly fields: readonly (FieldPlace & { readonly head: Uint8Array })[];
  readonly took: Uint8Array;
}

const TIME = encode('{"t":');
const END = encode('}\n');
const END_OF_SAME_TURN = encode(',"sameTurn":true}\n');

/** The lines of accesses to one place and of one width: what does not change is encoded once. */
export class AccessLine {
  readonly #parts: Parts;

  constructor(rid: string, bar: number, offset: number, width: number, names: AccessNames) {
    const head = (direction: 'read' | 'write') => {
      const about = { kind: 'register', rid, direction, bar, offset, width };
      return encode(`,${JSON.stringify(about).slice(1, -1)},"value":`);
    };
    const { register, fields } = names;
    this.#parts = {
      read: head('read'),
      write: head('write'),
      register: encode(register === undefined ? '' : `,"register":${JSON.stringify(register)}`),
      fields: fields.map((field, n) => {
        const name = JSON.stringify(field.name);
        return { ...field, head: encode(n === 0 ? `,"fields":{${name}:` : `,${name}:`) };
      }),
      took: encode(fields.length === 0 ? ',"took":' : '},"took":'),
    };
  }

  /** @param took nanoseconds, as `t` is; the value's halves may be signed */
  write(
    out: LineBuffer,
    t: number,
    direction: 'read' | 'write',
    low: number,
    high: number,
    took: number,
    sameTurn: boolean,
  ): void {
    const parts = this.#parts;
    out.encoded(TIME);
    out.decimal(t);
    out.encoded(parts[direction]);
    out.quotedHex(low, high);
    out.encoded(parts.register);
    for (const field of parts.fields) {
      out.encoded(field.head);
      out.decimal(fieldValue(field, low, high));
    }
    out.encoded(parts.took);
    out.decimal(took);
    out.encoded(sameTurn ? END_OF_SAME_TURN : END);
  }
}

/** A field of a value that comes as two halves, of which only the bits count. */
export function fieldValue({ low: at, bits }: FieldPlace, low: number, high: number): number {
  if (at + bits <= 32) return Math.floor((low >>> 0) / 2 ** at) % 2 ** bits;
  const value = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
  return Number(BigInt.asUintN(bits, value >> BigInt(at)));
}

function encode(words: string): Uint8Array {
  return new TextEncoder().encode(words);
}
