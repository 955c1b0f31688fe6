/**
 * The calls of libc that Node has no name for, each declared at its first use. Addresses are
 * numbers (user space ends at 2^47), which koffi passes twice as fast as Buffers; a failure is a
 * {@link SystemError}. Nothing here keeps a mapping or a descriptor: who makes one ends it.
 */
import koffi from 'koffi';
import { SystemError } from './system-error.ts';

export { SystemError } from './system-error.ts';

/** A range of plain bytes that a call reads or fills; its ArrayBuffer must not be resizable. */
export type Bytes = Uint8Array;

export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MAP_POPULATE = 0x8000;
export const MADV_DONTFORK = 10;
export const MADV_DONTDUMP = 16;
export const MADV_WIPEONFORK = 18;
export const MFD_CLOEXEC = 0x01;
export const MFD_ALLOW_SEALING = 0x02;
export const EFD_CLOEXEC = 0o2000000;
export const EFD_NONBLOCK = 0o4000;
export const PR_SET_DUMPABLE = 4;
export const PAGE_SIZE = 4096;

export type Native = (...args: (number | bigint | string | Uint8Array | null)[]) => number;

let processSymbols: ReturnType<typeof koffi.load> | undefined;

/** Declares `prototype` (C syntax) out of the process's own symbols, at the first call. */
export function declared(prototype: string): () => Native {
  let native: Native | undefined;
  return () => {
    if (native === undefined) {
      processSymbols ??= koffi.load(null);
      native = processSymbols.func(prototype) as Native;
    }
    return native;
  };
}

/** @throws SystemError where `result` is -1, with the errno of the call made just before. */
export function checked(syscall: string, result: number, doing?: string): number {
  if (result === -1) throw new SystemError(syscall, koffi.errno(), doing);
  return result;
}

const mmapNative = declared(
  'intptr_t mmap(uintptr_t addr, size_t length, int prot, int flags, int fd, int64_t offset)',
);

/**
 * mmap(2). `address` 0 lets the kernel choose.
 * @returns the address of the mapping. @throws SystemError
 */
export function mmap(
  address: number,
  length: number,
  protection: number,
  flags: number,
  fd = -1,
  offset = 0,
): number {
  const at = mmapNative()(address, length, protection, flags, fd, offset);
  return checked('mmap', at, `mapping ${length} bytes of descriptor ${fd} at offset ${offset}`);
}

const munmapNative = declared('int munmap(uintptr_t addr, size_t length)');

/** munmap(2). No view of the range may be left: touching one is SIGSEGV. @throws SystemError */
export function munmap(address: number, length: number): void {
  checked('munmap', munmapNative()(address, length));
}

const mprotectNative = declared('int mprotect(uintptr_t addr, size_t length, int prot)');

/** @throws SystemError */
export function mprotect(address: number, length: number, protection: number): void {
  checked('mprotect', mprotectNative()(address, length, protection));
}

const mlockNative = declared('int mlock(uintptr_t addr, size_t length)');

/** Keeps the range out of swap. @throws SystemError (ENOMEM: RLIMIT_MEMLOCK) */
export function mlock(address: number, length: number): void {
  checked('mlock', mlockNative()(address, length));
}

const munlockNative = declared('int munlock(uintptr_t addr, size_t length)');

/** @throws SystemError */
export function munlock(address: number, length: number): void {
  checked('munlock', munlockNative()(address, length));
}

const madviseNative = declared('int madvise(uintptr_t addr, size_t length, int advice)');

/** @throws SystemError */
export function madvise(address: number, length: number, advice: number): void {
  checked('madvise', madviseNative()(address, length, advice), `advice ${advice}`);
}

const explicitBzeroNative = declared('void explicit_bzero(uintptr_t addr, size_t length)');

/** Overwrites the range with zeros; never optimised away. */
export function explicitBzero(address: number, length: number): void {
  explicitBzeroNative()(address, length);
}

const memcpyOut = declared('void memcpy(void *to, uintptr_t from, size_t length)');
let copyOut: Native | undefined;

/** Copies `length` bytes (all of `into` by default) at `address` into `into`. */
export function copyFromAddress(into: Bytes, address: number, length = into.length): void {
  if (length > into.length) throw outsideBytes(length, into);
  copyOut ??= memcpyOut();
  copyOut(into, address, length);
}

const memcpyBetween = declared('void memcpy(uintptr_t to, uintptr_t from, size_t length)');
let copyBetween: ReturnType<typeof memcpyBetween> | undefined;

/** Copies between two native addresses; the ranges must not overlap. */
export function copyNative(to: number, from: number, length: number): void {
  copyBetween ??= memcpyBetween();
  copyBetween(to, from, length);
}

const memcpyIn = declared('void memcpy(uintptr_t to, const void *from, size_t length)');
let copyIn: Native | undefined;

/** Copies `length` bytes (all of `from` by default) out of `from` to `address`. */
export function copyToAddress(address: number, from: Bytes, length = from.length): void {
  if (length > from.length) throw outsideBytes(length, from);
  copyIn ??= memcpyIn();
  copyIn(address, from, length);
}

function outsideBytes(length: number, bytes: Bytes): RangeError {
  return new RangeError(`expected a length of at most ${bytes.length} bytes, got ${length}`);
}

/**
 * A view of native memory, nothing copied. It must not outlive the mapping: touching it after
 * munmap is SIGSEGV. Use it for memory that the caller itself maps and unmaps.
 */
export function viewOfAddress(address: number, length: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(koffi.view(BigInt(address), length));
}

/** The address of the first byte of `bytes`; valid while `bytes` lives and is not moved. */
export function addressOfBytes(bytes: Bytes): number {
  return Number(koffi.address(bytes));
}

const memfdCreateNative = declared('int memfd_create(const char *name, unsigned int flags)');

/** memfd_create(2), close-on-exec by default. @returns the descriptor. @throws SystemError */
export function memfdCreate(name: string, flags = MFD_CLOEXEC): number {
  return checked('memfd_create', memfdCreateNative()(name, flags));
}

const eventfdNative = declared('int eventfd(unsigned int initial, int flags)');

/** eventfd(2), close-on-exec and non-blocking by default. @throws SystemError */
export function eventfd(initial = 0, flags = EFD_CLOEXEC | EFD_NONBLOCK): number {
  return checked('eventfd', eventfdNative()(initial, flags));
}

const EBADF = koffi.os.errno.EBADF;
const closeNative = declared('int close(int fd)');

/**
 * close(2). Linux closes the descriptor whatever else it answers; the rest (ENOTCONN, EIO) is what the
 * flush of its file failed with, which says nothing to who closes a descriptor that a peer sent: the
 * RAM file's, when its controller has gone. @throws SystemError (EBADF)
 */
export function close(fd: number): void {
  const result = closeNative()(fd);
  if (result === -1 && koffi.errno() === EBADF) {
    throw new SystemError('close', koffi.errno(), `closing descriptor ${fd}`);
  }
}

const readNative = declared('int64_t read(int fd, void *into, size_t length)');

/**
 * read(2), once. @returns bytes read (0 at the end), or undefined where a non-blocking descriptor
 * has nothing now. @throws SystemError
 */
export function read(fd: number, into: Bytes): number | undefined {
  return transferred('read', readNative()(fd, into, into.length));
}

const writeNative = declared('int64_t write(int fd, const void *from, size_t length)');

/** write(2), once. @returns bytes written, or undefined where it would block. @throws SystemError */
export function write(fd: number, from: Bytes): number | undefined {
  return transferred('write', writeNative()(fd, from, from.length));
}

const EAGAIN = koffi.os.errno.EAGAIN;

/** @throws SystemError on any errno but EAGAIN. */
export function transferred(syscall: string, result: number): number | undefined {
  if (result !== -1) return result;
  const errno = koffi.errno();
  if (errno === EAGAIN) return undefined;
  throw new SystemError(syscall, errno);
}

const prctlNative = declared(
  'int prctl(int option, ulong arg2, ulong arg3, ulong arg4, ulong arg5)',
);

/** @throws SystemError */
export function prctl(option: number, arg2 = 0, arg3 = 0, arg4 = 0, arg5 = 0): number {
  return checked('prctl', prctlNative()(option, arg2, arg3, arg4, arg5), `option ${option}`);
}

const fcntlNative = declared('int fcntl(int fd, int command, ulong argument)');
const F_GETFL = 3;
const F_SETFL = 4;
const F_GET_SEALS = 1034;
export const O_ACCMODE = 3;
export const O_NONBLOCK = 0o4000;
export const F_SEAL_SHRINK = 2;

const F_DUPFD_CLOEXEC = 1030;

/** Another descriptor of the same open file, close-on-exec. @throws SystemError */
export function duplicate(fd: number): number {
  return checked('fcntl', fcntlNative()(fd, F_DUPFD_CLOEXEC, 0), 'F_DUPFD_CLOEXEC');
}

/** File status flags: access mode, O_NONBLOCK and so on. @throws SystemError */
export function fileFlags(fd: number): number {
  return checked('fcntl', fcntlNative()(fd, F_GETFL, 0), 'F_GETFL');
}

/** Sets the status flags that may change, for all who share the open file. @throws SystemError */
export function setFileFlags(fd: number, flags: number): void {
  checked('fcntl', fcntlNative()(fd, F_SETFL, flags), 'F_SETFL');
}

/** The seals of a memfd, or 0 for a file that cannot have any. */
export function fileSeals(fd: number): number {
  return Math.max(0, fcntlNative()(fd, F_GET_SEALS, 0));
}

const dup3Native = declared('int dup3(int from, int to, int flags)');

/** Makes `to` name the open file of `from`, close-on-exec; what `to` named is closed. @throws SystemError */
export function dup3(from: number, to: number): void {
  checked('dup3', dup3Native()(from, to, EFD_CLOEXEC), `${from} to ${to}`);
}

const closeRangeNative = declared('int close_range(uint first, uint last, uint flags)');
const CLOSE_RANGE_CLOEXEC = 4;

/**
 * Marks every descriptor but the standard ones close-on-exec, for libraries that do not: a child
 * must not hold them. Node hands descriptors to children by number and needs no inheritance.
 */
export function closeAllOnExec(): void {
  closeRangeNative()(3, 0xffffffff, CLOSE_RANGE_CLOEXEC);
}

const pollNative = declared('int poll(void *polled, ulong count, int timeout)');
const POLLOUT = 4;
const POLLERR = 8;
const POLLHUP = 0x10;
const POLLRDHUP = 0x2000;
const polled = new Uint8Array(new ArrayBuffer(128));
const polledView = new DataView(polled.buffer);

/** Whether a write would go through now. */
export function writableNow(fd: number): boolean {
  return (polledNow(fd, POLLOUT) & POLLOUT) !== 0;
}

/** Whether the other end of a socket will send no more; what it sent may still wait. */
export function peerHasEnded(fd: number): boolean {
  return (polledNow(fd, POLLRDHUP) & (POLLRDHUP | POLLHUP | POLLERR)) !== 0;
}

/** poll(2) of one descriptor without waiting. @returns the events */
function polledNow(fd: number, events: number): number {
  polledView.setInt32(0, fd, true);
  polledView.setInt16(4, events, true);
  polledView.setInt16(6, 0, true);
  return pollNative()(polled, 1, 0) === 1 ? polledView.getInt16(6, true) : 0;
}

const processVmReadv = declared(
  'int64_t process_vm_readv(int pid, void *local, ulong locals, void *remote, ulong remotes, ulong flags)',
);
const processVmWritev = declared(
  'int64_t process_vm_writev(int pid, void *local, ulong locals, void *remote, ulong remotes, ulong flags)',
);
const localVector = new Uint8Array(new ArrayBuffer(128));
const localView = new DataView(localVector.buffer);
const remoteVector = new Uint8Array(new ArrayBuffer(128));
const remoteView = new DataView(remoteVector.buffer);

/**
 * Copies between `bytes` and an address of this process through the kernel: an address that has no
 * memory behind it (a mapped file that has become shorter) is EFAULT here where a load is SIGBUS.
 * @throws SystemError
 */
export function copyChecked(direction: 'read' | 'write', address: number, bytes: Bytes): void {
  localView.setBigUint64(0, BigInt(addressOfBytes(bytes)), true);
  localView.setBigUint64(8, BigInt(bytes.length), true);
  remoteView.setBigUint64(0, BigInt(address), true);
  remoteView.setBigUint64(8, BigInt(bytes.length), true);
  const call = direction === 'read' ? processVmReadv() : processVmWritev();
  const done = call(process.pid, localVector, 1, remoteVector, 1, 0);
  const syscall = direction === 'read' ? 'process_vm_readv' : 'process_vm_writev';
  checked(syscall, done, `${bytes.length} bytes`);
  if (done < bytes.length) throw new SystemError(syscall, koffi.os.errno.EFAULT ?? 14);
}
