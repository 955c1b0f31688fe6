/**
 * Native memory for key material. memfd_secret(2) where the kernel has it: its pages are taken out of
 * the kernel's own map, so that neither /proc/PID/mem nor a debugger nor a core dump reaches them, and
 * they are locked. Elsewhere anonymous memory: locked, left out of core dumps, wiped in a forked child.
 * Either way nothing of it is in the JavaScript heap.
 * @module
 */
import { fstatSync, ftruncateSync } from 'node:fs';
import { readToAddress } from '../ffi/file-io.ts';
import {
  close,
  explicitBzero,
  MADV_DONTDUMP,
  MADV_DONTFORK,
  MADV_WIPEONFORK,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  mlock,
  mmap,
  munmap,
  PAGE_SIZE,
  PROT_READ,
  PROT_WRITE,
  SystemError,
} from '../ffi/libc.ts';
import { getrandom, memfdSecret, preadToAddress } from '../ffi/secrecy.ts';

export const SECRET_PAGE_BYTES = PAGE_SIZE;
/** Calls that signals may interrupt one after the other. */
const TRIES_MAX = 64;

export type SecretMemoryKind = 'memfd_secret' | 'anonymous';

/** One page of secret memory, zeroed. It holds no view: bytes are reached by address, natively. */
export class SecretPage {
  readonly kind: SecretMemoryKind;
  readonly #address: number;
  #released = false;

  /** @throws Error where memory cannot be had or locked (RLIMIT_MEMLOCK). */
  constructor(prefer: SecretMemoryKind = 'memfd_secret') {
    const secret = prefer === 'memfd_secret' ? mapMemfdSecret() : undefined;
    this.kind = secret === undefined ? 'anonymous' : 'memfd_secret';
    this.#address = secret ?? mapAnonymous();
  }

  /** @throws RangeError outside the page; Error where the page was released. */
  addressAt(offset: number, bytes: number): number {
    if (this.#released) throw new Error('expected secret memory in use, got a released page');
    if (!Number.isInteger(offset) || offset < 0 || offset + bytes > SECRET_PAGE_BYTES) {
      throw new RangeError(
        `expected a range inside the page, got ${bytes} bytes at offset ${offset}`,
      );
    }
    return this.#address + offset;
  }

  /** Wipes and unmaps. Idempotent. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    explicitBzero(this.#address, SECRET_PAGE_BYTES);
    munmap(this.#address, SECRET_PAGE_BYTES);
  }

  toJSON(): Record<string, unknown> {
    return { kind: this.kind, released: this.#released };
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return `SecretPage { ${this.kind}${this.#released ? ', released' : ''} }`;
  }
}

/**
 * Fills native memory with random bytes: getrandom(2), which for 256 bytes or fewer is never short.
 * @throws SystemError
 */
export function fillRandom(address: number, bytes: number): void {
  const got = uninterrupted(() => getrandom(address, bytes));
  if (got !== bytes) throw new Error(`expected ${bytes} random bytes, got ${got} of the kernel`);
}

/**
 * Reads exactly `bytes` from a file descriptor straight into native memory: a pipe or socket from
 * where it is, a file from its start. The descriptor stays open. What was read before a failure is
 * wiped.
 * @throws Error where the descriptor holds fewer bytes, is a file of another size, or has nothing
 *   now and does not block; SystemError where it cannot be read.
 */
export function readSecret(fd: number, address: number, bytes: number): void {
  const status = fstatSync(fd);
  const stream = status.isFIFO() || status.isSocket() || status.isCharacterDevice();
  if (!stream && !status.isFile()) {
    throw new Error(
      'expected the descriptor of a key to be a file, a pipe or a socket, got neither',
    );
  }
  if (!stream && status.size !== bytes) {
    throw new Error(
      `expected a key of exactly ${bytes} bytes in the file, got ${status.size} bytes`,
    );
  }
  try {
    // A read gives one byte at least, so this ends.
    for (let done = 0; done < bytes; ) {
      const at = done;
      const got = uninterrupted(() =>
        stream
          ? readToAddress(fd, address + at, bytes - at)
          : preadToAddress(fd, address + at, bytes - at, at),
      );
      if (got === undefined) {
        throw new Error(
          `expected a key of ${bytes} bytes, got ${done} and none waiting: write all of it first, or give a descriptor that blocks`,
        );
      }
      if (got === 0)
        throw new Error(`expected a key of ${bytes} bytes, got ${done} and then the end`);
      done += got;
    }
  } catch (error) {
    explicitBzero(address, bytes);
    throw error;
  }
}

/** Calls again where a signal came between, a bounded number of times. */
function uninterrupted<T>(call: () => T): T {
  for (let tries = 1; ; tries += 1) {
    try {
      return call();
    } catch (error) {
      const interrupted = error instanceof SystemError && error.code === 'EINTR';
      if (!interrupted || tries === TRIES_MAX) throw error;
    }
  }
}

/** @returns undefined where the kernel has no secret memory, or no more of it may be locked. */
function mapMemfdSecret(): number | undefined {
  let fd: number;
  try {
    fd = memfdSecret();
  } catch {
    return undefined;
  }
  try {
    ftruncateSync(fd, SECRET_PAGE_BYTES);
    const address = mmap(0, SECRET_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    return shielded(address, () => madvise(address, SECRET_PAGE_BYTES, MADV_DONTFORK));
  } catch {
    return undefined;
  } finally {
    close(fd);
  }
}

function mapAnonymous(): number {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const address = mmap(0, SECRET_PAGE_BYTES, PROT_READ | PROT_WRITE, flags);
  return shielded(address, () => {
    mlock(address, SECRET_PAGE_BYTES);
    madvise(address, SECRET_PAGE_BYTES, MADV_DONTDUMP);
    madvise(address, SECRET_PAGE_BYTES, MADV_WIPEONFORK);
  });
}

/** @returns `address`; unmapped where `shield` fails. */
function shielded(address: number, shield: () => void): number {
  try {
    shield();
  } catch (cause) {
    munmap(address, SECRET_PAGE_BYTES);
    const got = cause instanceof Error ? cause.message : String(cause);
    throw new Error(
      `expected memory for keys that is not swapped, dumped or forked, got ${got}: ` +
        'raise RLIMIT_MEMLOCK (ulimit -l)',
      { cause },
    );
  }
  return address;
}
