import type { VfioUserClient } from '../vfio-user/client/client.ts';
import { VfioUserError } from '../vfio-user/client/connection.ts';
import { decoded, encoded, type Width, type Writable } from './little-endian.ts';

/** Where a region is: the connection may be another one after {@link Vmm.reconnect}. */
export interface RegionPlace {
  /** As errors call it, such as BAR0. */
  readonly name: string;
  /** Of the protocol. */
  readonly index: number;
  /** Bytes. */
  readonly size: number;
  /** @throws Error where there is no connection */
  readonly client: () => VfioUserClient;
}

/**
 * A region of a device: a BAR, or configuration space. Accesses reach the device in the order of the
 * calls, and resolve when the device has answered; one that is refused rejects with the server's errno.
 */
export class Region {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly #index: number;
  readonly #client: () => VfioUserClient;

  constructor({ name, index, size, client }: RegionPlace) {
    this.name = name;
    this.size = size;
    this.#index = index;
    this.#client = client;
  }

  /** @throws RangeError outside the region; VfioUserError; ConnectionLost */
  async read8(offset: number): Promise<number> {
    return Number(await this.#load(offset, 1));
  }

  async read16(offset: number): Promise<number> {
    return Number(await this.#load(offset, 2));
  }

  async read32(offset: number): Promise<number> {
    return Number(await this.#load(offset, 4));
  }

  async read64(offset: number): Promise<bigint> {
    return await this.#load(offset, 8);
  }

  /** @throws as {@link read8}; RangeError where the value has more bits */
  async write8(offset: number, value: number): Promise<void> {
    await this.#store(offset, value, 1);
  }

  async write16(offset: number, value: number): Promise<void> {
    await this.#store(offset, value, 2);
  }

  async write32(offset: number, value: number): Promise<void> {
    await this.#store(offset, value, 4);
  }

  async write64(offset: number, value: Writable): Promise<void> {
    await this.#store(offset, value, 8);
  }

  /** Any length: one that is longer than a message goes in several. @throws as {@link read8} */
  async readBytes(offset: number, length: number): Promise<Uint8Array> {
    this.#check(offset, length);
    const client = this.#client();
    const most = client.version.dataBytesMax;
    if (length <= most)
      return await this.#told(offset, client.regionRead(this.#index, offset, length));
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length; done += most) {
      const piece = Math.min(most, length - done);
      const read = client.regionRead(this.#index, offset + done, piece);
      bytes.set(await this.#told(offset + done, read), done);
    }
    return bytes;
  }

  /** @throws as {@link readBytes} */
  async writeBytes(offset: number, bytes: Uint8Array): Promise<void> {
    this.#check(offset, bytes.length);
    const client = this.#client();
    const most = client.version.dataBytesMax;
    for (let done = 0; done < bytes.length; done += most) {
      const piece = bytes.subarray(done, done + most);
      await this.#told(offset + done, client.regionWrite(this.#index, offset + done, piece));
    }
  }

  async #load(offset: number, width: Width): Promise<bigint> {
    return decoded(await this.readBytes(offset, width));
  }

  async #store(offset: number, value: Writable, width: Width): Promise<void> {
    await this.writeBytes(
      offset,
      encoded(value, width, () => this.#at(offset)),
    );
  }

  async #told<Answer>(offset: number, answer: Promise<Answer>): Promise<Answer> {
    try {
      return await answer;
    } catch (error) {
      if (error instanceof VfioUserError) error.message += `, at ${this.#at(offset)}`;
      throw error;
    }
  }

  #check(offset: number, length: number): void {
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
    if (whole && offset >= 0 && length >= 1 && offset + length <= this.size) return;
    throw new RangeError(
      this.size === 0
        ? `expected a region that the device has, got ${this.name}, which it has not`
        : `expected an access inside ${this.name}'s 0x${this.size.toString(16)} bytes, got ${length} bytes at ` +
            `0x${Number(offset).toString(16)}`,
    );
  }

  #at(offset: number): string {
    return `0x${offset.toString(16)} of ${this.name}`;
  }
}
