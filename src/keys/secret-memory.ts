/**
 * Native memory for key material. memfd_secret(2) where the kernel has it: its pages are taken out of
 * the kernel's own map, so that neither /proc/PID/mem nor a debugger nor a core dump reaches them, and
 * they are locked. Elsewhere anonymous memory: locked, left out of core dumps, wiped in a forked child.
 * Either way nothing of it is in the JavaScript heap.
 * @module
 */
import { fstatSync } from 'node:fs';
import koffi from 'koffi';
import {
  EINTR,
  libc,
  MADV_DONTDUMP,
  MADV_DONTFORK,
  MADV_WIPEONFORK,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  O_CLOEXEC,
  PROT_READ,
  PROT_WRITE,
  systemError,
} from './libc.ts';

export const SECRET_PAGE_BYTES = 4096;
const READ_TRIES_MAX = 64;

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
    libc().explicitBzero(this.#address, SECRET_PAGE_BYTES);
    libc().munmap(this.#address, SECRET_PAGE_BYTES);
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
 * @throws Error
 */
export function fillRandom(address: number, bytes: number): void {
  for (let tries = 0; tries < READ_TRIES_MAX; tries += 1) {
    if (libc().getrandom(address, bytes, 0) === bytes) return;
    if (koffi.errno() !== EINTR) break;
  }
  throw systemError('getrandom', 'the kernel gave no random bytes');
}

/**
 * Reads exactly `bytes` from a file descriptor straight into native memory: a pipe or socket from
 * where it is, a file from its start, memory of memfd_secret(2) (which has no read(2)) by mapping it.
 * The descriptor stays open. What was read before a failure is wiped.
 * @throws Error where the descriptor holds fewer bytes, or is a file of another size.
 */
export function readSecret(fd: number, address: number, bytes: number): void {
  const status = fstatSync(fd);
  const stream = status.isFIFO() || status.isSocket() || status.isCharacterDevice();
  if (!stream && status.size === SECRET_PAGE_BYTES) {
    // Memory of memfd_secret refuses read(2); what can be read is a file of the wrong size.
    const readable = libc().pread(fd, address, 1, 0) > 0;
    libc().explicitBzero(address, 1);
    if (!readable) {
      readMapped(fd, address, bytes);
      return;
    }
  }
  if (!stream && status.size !== bytes) {
    throw new Error(
      `expected a key of exactly ${bytes} bytes in the file, got ${status.size} bytes`,
    );
  }
  let done = 0;
  for (let tries = 0; done < bytes && tries < READ_TRIES_MAX; tries += 1) {
    const got = stream
      ? libc().read(fd, address + done, bytes - done)
      : libc().pread(fd, address + done, bytes - done, done);
    if (got > 0) done += got;
    else if (got === 0 || koffi.errno() !== EINTR) {
      const error =
        got === 0
          ? new Error(`expected a key of ${bytes} bytes, got ${done} and then the end`)
          : systemError('read of the key', 'give a descriptor that can be read and does not block');
      libc().explicitBzero(address, bytes);
      throw error;
    }
  }
  if (done < bytes) {
    libc().explicitBzero(address, bytes);
    throw new Error(`expected a key of ${bytes} bytes, got ${done} in ${READ_TRIES_MAX} reads`);
  }
}

/**
 * A fresh random key in shared secret memory, as a file descriptor (one page, the key at its start): the
 * way to give two processes the same key without either seeing the bytes. Each loads it with
 * {@link readSecret}; the memory goes when the last descriptor is closed. Where the kernel has no
 * memfd_secret(2) there is none.
 * @throws Error
 */
export function createKeyDescriptor(keyBytes: 64 | 32): number {
  const fd = libc().memfdSecret(O_CLOEXEC);
  if (fd < 0) {
    throw systemError(
      'memfd_secret',
      'boot the kernel with secretmem.enable=1, or load the key in both processes from a pipe',
    );
  }
  const mapped = mapDescriptor(fd, true);
  if (mapped === undefined) {
    const error = systemError('mmap of secret memory', 'raise RLIMIT_MEMLOCK (ulimit -l)');
    libc().close(fd);
    throw error;
  }
  try {
    fillRandom(mapped, keyBytes);
  } finally {
    libc().munmap(mapped, SECRET_PAGE_BYTES);
  }
  return fd;
}

function readMapped(fd: number, address: number, bytes: number): void {
  const mapped = mapDescriptor(fd, false);
  if (mapped === undefined) {
    throw systemError('mmap of the key descriptor', 'give memory of memfd_secret or a pipe');
  }
  libc().memcpy(address, mapped, bytes);
  libc().munmap(mapped, SECRET_PAGE_BYTES);
}

function mapDescriptor(fd: number, grow: boolean): number | undefined {
  if (grow && libc().ftruncate(fd, SECRET_PAGE_BYTES) !== 0) return undefined;
  const prot = grow ? PROT_READ | PROT_WRITE : PROT_READ;
  const address = libc().mmap(0, SECRET_PAGE_BYTES, prot, MAP_SHARED, fd, 0);
  if (address <= 0) return undefined;
  libc().madvise(address, SECRET_PAGE_BYTES, MADV_DONTFORK);
  return address;
}

function mapMemfdSecret(): number | undefined {
  const fd = libc().memfdSecret(O_CLOEXEC);
  if (fd < 0) return undefined;
  const address = mapDescriptor(fd, true);
  libc().close(fd);
  return address;
}

function mapAnonymous(): number {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS;
  const address = libc().mmap(0, SECRET_PAGE_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (address <= 0) {
    throw systemError('mmap', 'no memory for keys');
  }
  for (const [call, result] of [
    ['mlock', libc().mlock(address, SECRET_PAGE_BYTES)],
    ['madvise(MADV_DONTDUMP)', libc().madvise(address, SECRET_PAGE_BYTES, MADV_DONTDUMP)],
    ['madvise(MADV_WIPEONFORK)', libc().madvise(address, SECRET_PAGE_BYTES, MADV_WIPEONFORK)],
  ] as const) {
    if (result !== 0) {
      const error = systemError(call, 'keys must not be swapped: raise RLIMIT_MEMLOCK (ulimit -l)');
      libc().munmap(address, SECRET_PAGE_BYTES);
      throw error;
    }
  }
  return address;
}
