/**
 * UNIX stream sockets with descriptors beside the bytes (SCM_RIGHTS), which Node's net has not.
 * All are close-on-exec and non-blocking. unix(7), cmsg(3).
 */
import koffi from 'koffi';
import { addressOfBytes, type Bytes, close, SystemError, transferred } from './libc.ts';

type Native = (...args: (number | Uint8Array)[]) => number;

const AF_UNIX = 1;
const SOCK_STREAM_NONBLOCK_CLOEXEC = 1 | 0o4000 | 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_PEEK = 0x2;
const MSG_CTRUNC = 0x8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const FIONREAD = 0x541b;
const SO_PEERCRED = 17;

/** struct sockaddr_un: the path's room is 108 bytes, its terminating NUL included. */
export const SOCKET_PATH_BYTES_MAX = 107;
/** The kernel's SCM_MAX_FD. */
export const MESSAGE_DESCRIPTORS_MAX = 253;

function declare(prototype: string): Native {
  return koffi.load(null).func(prototype) as Native;
}

let calls:
  | {
      readonly socket: Native;
      readonly bind: Native;
      readonly listen: Native;
      readonly connect: Native;
      readonly accept4: Native;
      readonly shutdown: Native;
      readonly sendmsg: Native;
      readonly recvmsg: Native;
      readonly recv: Native;
      readonly ioctl: Native;
      readonly getsockopt: Native;
    }
  | undefined;

function libc() {
  calls ??= {
    socket: declare('int socket(int domain, int type, int protocol)'),
    bind: declare('int bind(int fd, const void *address, unsigned int length)'),
    listen: declare('int listen(int fd, int backlog)'),
    connect: declare('int connect(int fd, const void *address, unsigned int length)'),
    accept4: declare('int accept4(int fd, uintptr_t address, uintptr_t length, int flags)'),
    shutdown: declare('int shutdown(int fd, int how)'),
    sendmsg: declare('int64_t sendmsg(int fd, uintptr_t message, int flags)'),
    recvmsg: declare('int64_t recvmsg(int fd, uintptr_t message, int flags)'),
    recv: declare('int64_t recv(int fd, void *into, size_t length, int flags)'),
    ioctl: declare('int ioctl(int fd, ulong request, void *argument)'),
    getsockopt: declare('int getsockopt(int fd, int level, int option, void *value, void *length)'),
  };
  return calls;
}

function checked(syscall: string, result: number, doing: string): number {
  if (result === -1) throw new SystemError(syscall, koffi.errno(), doing);
  return result;
}

/** @throws RangeError where the path does not fit a socket address */
export function checkSocketPath(path: string): void {
  const bytes = Buffer.byteLength(path);
  if (bytes === 0 || bytes > SOCKET_PATH_BYTES_MAX || path.includes('\0')) {
    throw new RangeError(
      `expected a socket path of 1 to ${SOCKET_PATH_BYTES_MAX} bytes without NUL, got ${bytes} bytes: ` +
        `${JSON.stringify(path)}; choose a shorter directory`,
    );
  }
}

function socketAddress(path: string): Uint8Array {
  checkSocketPath(path);
  const address = new Uint8Array(110);
  address[0] = AF_UNIX;
  new TextEncoder().encodeInto(path, address.subarray(2));
  return address;
}

/** @returns a listening descriptor. @throws SystemError (EADDRINUSE: the file is there) */
export function listenUnix(path: string, backlog: number): number {
  const address = socketAddress(path);
  const fd = checked(
    'socket',
    libc().socket(AF_UNIX, SOCK_STREAM_NONBLOCK_CLOEXEC, 0),
    'for listening',
  );
  try {
    checked('bind', libc().bind(fd, address, address.length), `at ${path}`);
    checked('listen', libc().listen(fd, backlog), `at ${path}`);
  } catch (error) {
    close(fd);
    throw error;
  }
  return fd;
}

/** @returns a connected descriptor. @throws SystemError (ECONNREFUSED: nobody listens; EAGAIN: queue full) */
export function connectUnix(path: string): number {
  const address = socketAddress(path);
  const fd = checked(
    'socket',
    libc().socket(AF_UNIX, SOCK_STREAM_NONBLOCK_CLOEXEC, 0),
    'for connecting',
  );
  try {
    checked('connect', libc().connect(fd, address, address.length), `to ${path}`);
  } catch (error) {
    close(fd);
    throw error;
  }
  return fd;
}

/** @returns the next connection, or undefined where none waits. @throws SystemError */
export function acceptUnix(listening: number): number | undefined {
  return transferred('accept4', libc().accept4(listening, 0, 0, 0o4000 | 0o2000000));
}

/** Whom a connection was made by, at the time of its connect(2) (unix(7), SO_PEERCRED). @throws SystemError */
export function peerCredentials(fd: number): {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
} {
  const [value, length] = [new Int32Array(64), new Int32Array(64)];
  length[0] = 12;
  const bytes = (words: Int32Array) => new Uint8Array(words.buffer);
  checked(
    'getsockopt',
    libc().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, bytes(value), bytes(length)),
    'SO_PEERCRED',
  );
  const [pid = -1, uid = -1, gid = -1] = value;
  return { pid, uid: uid >>> 0, gid: gid >>> 0 };
}

/** Ends both directions of a connection for all who hold it, and forgets what still waits in it. */
export function endConnection(fd: number): void {
  libc().shutdown(fd, 2);
  const scratch = new Uint8Array(65536);
  // Nothing can come any more, and the socket's buffer bounds what has.
  for (let rounds = 0; rounds < 10_000; rounds++) {
    const taken = libc().recv(fd, scratch, scratch.length, MSG_DONTWAIT);
    if (taken <= 0) return;
  }
}

const ioctlAnswer = new Int32Array(64);

/** Bytes that wait to be received. @throws SystemError */
export function bytesWaiting(fd: number): number {
  const bytes = new Uint8Array(ioctlAnswer.buffer);
  checked('ioctl', libc().ioctl(fd, FIONREAD, bytes), 'FIONREAD');
  return ioctlAnswer[0] ?? 0;
}

/**
 * One struct msghdr with its buffers, made once and used again, so that nothing is allocated on the
 * way of a message. The bytes lie in {@link bytes}.
 */
export class MessageBuffer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
  readonly #header: DataView<ArrayBuffer>;
  readonly #headerAddress: number;
  readonly #control: DataView<ArrayBuffer>;
  readonly #controlAddress: number;
  readonly #vector: DataView<ArrayBuffer>;

  constructor(capacity: number) {
    // ArrayBuffers of their own never move, unlike small typed arrays.
    this.bytes = new Uint8Array(new ArrayBuffer(Math.max(capacity, 128)), 0, capacity);
    this.view = new DataView(this.bytes.buffer);
    const header = new Uint8Array(new ArrayBuffer(128));
    const control = new Uint8Array(new ArrayBuffer(16 + 4 * MESSAGE_DESCRIPTORS_MAX + 4));
    const vector = new Uint8Array(new ArrayBuffer(128));
    this.#header = new DataView(header.buffer);
    this.#control = new DataView(control.buffer);
    this.#vector = new DataView(vector.buffer);
    this.#headerAddress = addressOfBytes(header);
    this.#controlAddress = addressOfBytes(control);
    this.#vector.setBigUint64(0, BigInt(addressOfBytes(this.bytes)), true);
    this.#header.setBigUint64(16, BigInt(addressOfBytes(vector)), true);
    this.#header.setBigUint64(24, 1n, true);
  }

  /**
   * Looks at the first bytes of what waits, up to the capacity, and leaves it there. What is seen
   * ends behind the first descriptors, which are told of even where they lie behind the capacity.
   * @returns the bytes seen (0 at the end of the stream), or undefined where nothing waits
   * @throws SystemError
   */
  peek(fd: number): number | undefined {
    this.#prepare(this.bytes.length, 0);
    return transferred(
      'recvmsg',
      libc().recvmsg(fd, this.#headerAddress, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC),
    );
  }

  /** Whether what {@link peek} saw has descriptors with it. */
  get withDescriptors(): boolean {
    return (this.#header.getInt32(48, true) & MSG_CTRUNC) !== 0;
  }

  /**
   * Takes up to `length` bytes (the capacity by default) and their descriptors, which the caller
   * closes. @returns undefined where nothing waits; 0 bytes is the end. @throws SystemError
   */
  receive(
    fd: number,
    length = this.bytes.length,
  ): { readonly count: number; readonly descriptors: number[] } | undefined {
    this.#prepare(Math.min(length, this.bytes.length), this.#control.byteLength);
    const count = transferred(
      'recvmsg',
      libc().recvmsg(fd, this.#headerAddress, MSG_DONTWAIT | MSG_CMSG_CLOEXEC),
    );
    return count === undefined ? undefined : { count, descriptors: this.#descriptors() };
  }

  /**
   * Sends the first `length` bytes, with descriptors.
   * @returns bytes sent, or undefined where it would block. @throws SystemError
   */
  send(fd: number, length: number, descriptors: readonly number[] = []): number | undefined {
    if (length > this.bytes.length || descriptors.length > MESSAGE_DESCRIPTORS_MAX) {
      throw new RangeError(
        `expected at most ${this.bytes.length} bytes and ${MESSAGE_DESCRIPTORS_MAX} descriptors, ` +
          `got ${length} and ${descriptors.length}`,
      );
    }
    const size = descriptors.length * 4;
    this.#prepare(length, size === 0 ? 0 : 16 + ((size + 7) & ~7));
    if (size > 0) {
      this.#control.setBigUint64(0, BigInt(16 + size), true);
      this.#control.setInt32(8, SOL_SOCKET, true);
      this.#control.setInt32(12, SCM_RIGHTS, true);
      for (const [index, descriptor] of descriptors.entries()) {
        this.#control.setInt32(16 + 4 * index, descriptor, true);
      }
    }
    return transferred(
      'sendmsg',
      libc().sendmsg(fd, this.#headerAddress, MSG_DONTWAIT | MSG_NOSIGNAL),
    );
  }

  #prepare(length: number, controlLength: number): void {
    this.#vector.setUint32(8, length, true);
    const header = this.#header;
    const control = controlLength === 0 ? 0 : this.#controlAddress;
    // In halves: a BigInt would be allocated for each message.
    header.setUint32(32, control >>> 0, true);
    header.setUint32(36, Math.floor(control / 0x1_0000_0000), true);
    header.setUint32(40, controlLength, true);
    header.setInt32(48, 0, true);
  }

  #descriptors(): number[] {
    const length = this.#header.getUint32(40, true);
    const descriptors: number[] = [];
    // The kernel puts all descriptors of a message into one control message.
    if (length >= 16 && this.#control.getInt32(12, true) === SCM_RIGHTS) {
      const end = Math.min(Number(this.#control.getBigUint64(0, true)), length);
      for (let at = 16; at + 4 <= end; at += 4) descriptors.push(this.#control.getInt32(at, true));
    }
    return descriptors;
  }
}

/**
 * Takes bytes off the stream and forgets them with their descriptors (the kernel closes what no
 * control buffer takes). @returns how many, or undefined where nothing waits. @throws SystemError
 */
export function discard(fd: number, scratch: Bytes, length: number): number | undefined {
  return transferred(
    'recv',
    libc().recv(fd, scratch, Math.min(length, scratch.length), MSG_DONTWAIT),
  );
}
