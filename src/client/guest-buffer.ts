import { decoded, encoded, type Width, type Writable } from './little-endian.ts';

/** What a buffer needs of the memory it lies in. */
export interface BufferMemory {
  read(gpa: number, length: number): Uint8Array<ArrayBuffer>;
  write(gpa: number, bytes: Uint8Array): void;
  fill(gpa: number, length: number, byte: number): void;
}

/** Guest memory that a test, as a driver would, has got for a device to work on. */
export class GuestBuffer implements Disposable {
  /** Guest-physical address of its first byte: what goes into a device's registers. */
  readonly gpa: number;
  /** Bytes. */
  readonly length: number;
  readonly #memory: BufferMemory;
  readonly #freed: () => void;
  #live = true;

  constructor(memory: BufferMemory, gpa: number, length: number, freed: () => void) {
    this.#memory = memory;
    this.gpa = gpa;
    this.length = length;
    this.#freed = freed;
  }

  /** A copy of what it holds now. @throws RangeError outside it */
  bytes(offset = 0, length = this.length - offset): Uint8Array<ArrayBuffer> {
    return this.#memory.read(this.#place(offset, length), length);
  }

  /** @throws RangeError where they do not fit */
  write(bytes: Uint8Array, offset = 0): void {
    this.#memory.write(this.#place(offset, bytes.length), bytes);
  }

  fill(byte: number): void {
    this.#memory.fill(this.#place(0, this.length), this.length, byte);
  }

  read8(offset: number): number {
    return Number(this.#load(offset, 1));
  }

  read16(offset: number): number {
    return Number(this.#load(offset, 2));
  }

  read32(offset: number): number {
    return Number(this.#load(offset, 4));
  }

  read64(offset: number): bigint {
    return this.#load(offset, 8);
  }

  write8(offset: number, value: number): void {
    this.#store(offset, value, 1);
  }

  write16(offset: number, value: number): void {
    this.#store(offset, value, 2);
  }

  write32(offset: number, value: number): void {
    this.#store(offset, value, 4);
  }

  write64(offset: number, value: Writable): void {
    this.#store(offset, value, 8);
  }

  /** Gives it back; the bytes may be another buffer's from here on. */
  free(): void {
    if (!this.#live) return;
    this.#live = false;
    this.#freed();
  }

  [Symbol.dispose](): void {
    this.free();
  }

  #load(offset: number, width: Width): bigint {
    return decoded(this.bytes(offset, width));
  }

  #store(offset: number, value: Writable, width: Width): void {
    this.write(
      encoded(value, width, () => `offset 0x${offset.toString(16)} of the buffer`),
      offset,
    );
  }

  #place(offset: number, length: number): number {
    if (!this.#live) {
      throw new Error(
        `expected a buffer, got the one at 0x${this.gpa.toString(16)}, which is freed`,
      );
    }
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
    if (!whole || offset < 0 || length < 0 || offset + length > this.length) {
      throw new RangeError(
        `expected a range inside the buffer's ${this.length} bytes, got ${length} at ${offset}`,
      );
    }
    return this.gpa + offset;
  }
}
