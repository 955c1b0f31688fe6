/**
 * The system calls that hold and protect key material: getrandom(2), memfd_secret(2), mmap(2),
 * mlock(2), madvise(2), prctl(2), setrlimit(2), read(2), explicit_bzero(3). x86-64 Linux.
 * @module
 */
import koffi from 'koffi';

export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 1;
export const MAP_PRIVATE = 2;
export const MAP_ANONYMOUS = 0x20;
export const MADV_DONTFORK = 10;
export const MADV_DONTDUMP = 16;
export const MADV_WIPEONFORK = 18;
export const O_CLOEXEC = 0o2000000;
export const PR_GET_DUMPABLE = 3;
export const PR_SET_DUMPABLE = 4;
export const RLIMIT_CORE = 4;
export const EINTR = 4;
export const SYS_MEMFD_SECRET = 447;

export interface Libc {
  getrandom(into: number, bytes: number, flags: number): number;
  /** The address, or -1 (MAP_FAILED): declared signed, since koffi gives 2^64 - 1 as a bigint. */
  mmap(at: number, bytes: number, prot: number, flags: number, fd: number, offset: number): number;
  munmap(at: number, bytes: number): number;
  mlock(at: number, bytes: number): number;
  madvise(at: number, bytes: number, advice: number): number;
  ftruncate(fd: number, bytes: number): number;
  close(fd: number): number;
  read(fd: number, into: number, bytes: number): number;
  pread(fd: number, into: number, bytes: number, offset: number): number;
  memcpy(into: number, from: number, bytes: number): void;
  /** A memset that no optimizer removes. */
  explicitBzero(at: number, bytes: number): void;
  prctl(option: number, a: number, b: number, c: number, d: number): number;
  setrlimit(resource: number, limits: BigUint64Array): number;
  /** The file descriptor, or -1. */
  memfdSecret(flags: number): number;
}

let loaded: Libc | undefined;

export function libc(): Libc {
  loaded ??= load();
  return loaded;
}

/** A failed call by name, with what errno says of it. */
export function systemError(call: string, advice: string): Error {
  const number = koffi.errno();
  const code =
    Object.entries(koffi.os.errno).find(([, value]) => value === number)?.[0] ?? `errno ${number}`;
  return Object.assign(new Error(`expected ${call} to succeed, got ${code}: ${advice}`), { code });
}

function load(): Libc {
  const library = koffi.load(null);
  const at = 'uintptr_t';
  const syscall: (number: number, flags: number) => number = library.func('syscall', 'long', [
    'long',
    'long',
  ]);
  return {
    getrandom: library.func('getrandom', 'int64_t', [at, 'size_t', 'uint']),
    mmap: library.func('mmap', 'int64_t', [at, 'size_t', 'int', 'int', 'int', 'int64_t']),
    munmap: library.func('munmap', 'int', [at, 'size_t']),
    mlock: library.func('mlock', 'int', [at, 'size_t']),
    madvise: library.func('madvise', 'int', [at, 'size_t', 'int']),
    ftruncate: library.func('ftruncate', 'int', ['int', 'int64_t']),
    close: library.func('close', 'int', ['int']),
    read: library.func('read', 'int64_t', ['int', at, 'size_t']),
    pread: library.func('pread', 'int64_t', ['int', at, 'size_t', 'int64_t']),
    memcpy: library.func('memcpy', 'void', [at, at, 'size_t']),
    explicitBzero: library.func('explicit_bzero', 'void', [at, 'size_t']),
    prctl: library.func('prctl', 'int', ['int', 'ulong', 'ulong', 'ulong', 'ulong']),
    setrlimit: library.func('setrlimit', 'int', ['int', 'uint64_t *']),
    memfdSecret: (flags) => syscall(SYS_MEMFD_SECRET, flags),
  };
}
