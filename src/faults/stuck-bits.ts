import type { RegisterPlace } from './register-place.ts';

/** Bits of a register that keep a value, whatever the driver writes and the device sets. */
export class StuckBits {
  readonly place: RegisterPlace;
  readonly #mask: Uint8Array;
  readonly #value: Uint8Array;

  constructor(place: RegisterPlace, value: bigint) {
    this.place = place;
    this.#mask = littleEndian(place.mask, place.width);
    this.#value = littleEndian(value, place.width);
  }

  /** Sets them in the bytes of an access to the BAR, as far as they are in its range. */
  setIn(bar: number, offset: number, bytes: Uint8Array): void {
    if (bar !== this.place.bar) return;
    const shift = this.place.offset - offset;
    for (let at = 0; at < this.place.width; at++) {
      const byte = bytes[at + shift];
      if (byte === undefined) continue;
      const mask = this.#mask[at] ?? 0;
      bytes[at + shift] = (byte & ~mask) | ((this.#value[at] ?? 0) & mask);
    }
  }
}

/** Whether an access meets the register. */
export function meets(place: RegisterPlace, bar: number, offset: number, length: number): boolean {
  return bar === place.bar && offset < place.offset + place.width && place.offset < offset + length;
}

function littleEndian(value: bigint, width: number): Uint8Array {
  return Uint8Array.from({ length: width }, (_, at) => Number((value >> BigInt(8 * at)) & 0xffn));
}
