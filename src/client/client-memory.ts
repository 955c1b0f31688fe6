import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { close, memfdCreate, PAGE_SIZE } from '../ffi/libc.ts';
import type { Rights } from '../iommu/domain.ts';
import type { DmaMemory } from '../vfio-user/client/dma-by-message.ts';
import { FreeRanges } from './free-ranges.ts';
import { GuestBuffer } from './guest-buffer.ts';

/** Address 0 is not memory, so that a device that was given no address is refused. */
export const GPA_DEFAULT = 0x10_0000;
export const BYTES_DEFAULT = 64 * 2 ** 20;

const FILL_BYTES = 64 * 1024;

export interface AllocateOptions {
  /** A power of two; default 4096, as a driver's coherent buffers have it. */
  readonly align?: number;
  /**
   * What a device may do with it, where there is an IOMMU that maps buffers one by one.
   * Default read-write.
   */
  readonly rights?: Rights;
}

/** Told of buffers as they come and go. */
export interface BufferListener {
  allocated(buffer: GuestBuffer, rights: Rights): void;
  freed(buffer: GuestBuffer): void;
}

/**
 * Guest memory as the CPU has it: a file that the client lends to devices. Loads and stores go through
 * the kernel and not through a mapping, so that memory whose controller has died is an error and not
 * a signal.
 */
export class ClientMemory implements DmaMemory, Disposable {
  /** Guest-physical address of the first byte. */
  readonly gpa: number;
  /** Bytes. */
  readonly bytes: number;
  readonly #descriptor: number;
  readonly #close: () => void;
  readonly #free: FreeRanges;
  readonly #listeners: BufferListener[] = [];
  #closed = false;

  /** Memory of our own that nothing encrypts. @throws RangeError where a size is not in whole pages */
  static plain(gpa: number, bytes: number): ClientMemory {
    checkPages(gpa, bytes);
    const descriptor = memfdCreate('sealbus-client');
    try {
      ftruncateSync(descriptor, bytes);
      return new ClientMemory(gpa, bytes, descriptor, () => close(descriptor));
    } catch (error) {
      close(descriptor);
      throw error;
    }
  }

  /** The whole of a sealed RAM file. @throws as {@link plain}; Error where the file cannot be opened */
  static sealed(gpa: number, bytes: number, path: string): ClientMemory {
    checkPages(gpa, bytes);
    const descriptor = openSync(path, 'r+');
    return new ClientMemory(gpa, bytes, descriptor, () => closeSealed(descriptor));
  }

  private constructor(gpa: number, bytes: number, descriptor: number, end: () => void) {
    this.gpa = gpa;
    this.bytes = bytes;
    this.#descriptor = descriptor;
    this.#close = end;
    this.#free = new FreeRanges(gpa, gpa + bytes);
  }

  /** What a server maps. */
  get descriptor(): number {
    return this.#descriptor;
  }

  /**
   * A buffer of so many bytes, all zeros, or one that holds these bytes.
   * @throws RangeError where there is no room
   */
  allocate(content: number | Uint8Array, options: AllocateOptions = {}): GuestBuffer {
    const { align = PAGE_SIZE, rights = 'read-write' } = options;
    const length = typeof content === 'number' ? content : content.length;
    if (!Number.isSafeInteger(length) || length < 1) {
      throw new RangeError(`expected a buffer of one byte or more, got ${length}`);
    }
    if (!Number.isSafeInteger(align) || align < 1 || !Number.isInteger(Math.log2(align))) {
      throw new RangeError(`expected an alignment that is a power of two, got ${align}`);
    }
    const at = this.#free.take(length, align);
    if (at === undefined) {
      throw new RangeError(
        `expected room for ${length} bytes in guest memory of ${this.bytes}, got at most ` +
          `${this.#free.largest} together: free buffers, or ask for more memory`,
      );
    }
    if (typeof content === 'number') this.fill(at, length, 0);
    else this.write(at, content);
    const buffer: GuestBuffer = new GuestBuffer(this, at, length, () => this.#freed(buffer));
    for (const listener of this.#listeners) listener.allocated(buffer, rights);
    return buffer;
  }

  /** The bytes at a guest-physical address, copied. @throws RangeError outside memory */
  read(gpa: number, length: number): Uint8Array<ArrayBuffer> {
    if (!(length <= this.bytes)) throw this.#outside(gpa, length);
    const into = new Uint8Array(length);
    this.readInto(gpa, into);
    return into;
  }

  /** Stores all of `bytes`. @throws RangeError outside memory */
  write(gpa: number, bytes: Uint8Array): void {
    this.writeFrom(gpa, bytes);
  }

  /** Stores `byte` so many times. @throws RangeError outside memory */
  fill(gpa: number, length: number, byte: number): void {
    this.#place(gpa, length);
    const piece = new Uint8Array(Math.min(length, FILL_BYTES)).fill(byte);
    for (let done = 0; done < length; done += piece.length) {
      this.writeFrom(gpa + done, piece.subarray(0, Math.min(piece.length, length - done)));
    }
  }

  readInto(gpa: number, into: Uint8Array): void {
    const offset = this.#place(gpa, into.length);
    for (let done = 0; done < into.length; ) {
      const count = readSync(this.#descriptor, into, done, into.length - done, offset + done);
      if (count === 0) throw new Error('expected guest memory to be whole, got a file cut short');
      done += count;
    }
  }

  writeFrom(gpa: number, from: Uint8Array): void {
    const offset = this.#place(gpa, from.length);
    for (let done = 0; done < from.length; ) {
      done += writeSync(this.#descriptor, from, done, from.length - done, offset + done);
    }
  }

  listen(listener: BufferListener): void {
    this.#listeners.push(listener);
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#close();
  }

  #freed(buffer: GuestBuffer): void {
    for (const listener of this.#listeners) listener.freed(buffer);
    this.#free.give(buffer.gpa, buffer.length);
  }

  /** @returns the offset in the file */
  #place(gpa: number, length: number): number {
    if (this.#closed) throw new Error('expected guest memory, got that of a Vmm that has ended');
    const offset = gpa - this.gpa;
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
    if (!whole || offset < 0 || length < 0 || offset + length > this.bytes) {
      throw this.#outside(gpa, length);
    }
    return offset;
  }

  #outside(gpa: number, length: number): RangeError {
    const end = this.gpa + this.bytes;
    return new RangeError(
      `expected a range inside guest memory, 0x${this.gpa.toString(16)} to 0x${end.toString(16)}, got ` +
        `${length} bytes at 0x${gpa.toString(16)}`,
    );
  }
}

/** Where its keys or its controller are gone nothing can be written back: it is closed all the same (close(2)). */
function closeSealed(descriptor: number): void {
  try {
    closeSync(descriptor);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'EIO' && code !== 'ENOTCONN') throw error;
  }
}

function checkPages(gpa: number, bytes: number): void {
  const paged = (value: number) => Number.isSafeInteger(value) && value % PAGE_SIZE === 0;
  if (!paged(gpa) || !paged(bytes) || gpa < 0 || bytes <= 0 || !Number.isSafeInteger(gpa + bytes)) {
    throw new RangeError(
      `expected guest memory in whole pages of ${PAGE_SIZE} bytes below 2^53, got ${bytes} bytes at ${gpa}`,
    );
  }
}
