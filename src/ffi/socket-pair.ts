import { checked, declared } from './libc.ts';

const AF_UNIX = 1;
const SOCK_STREAM_NONBLOCK_CLOEXEC = 1 | 0o4000 | 0o2000000;

const socketpairNative = declared('int socketpair(int domain, int type, int protocol, void *fds)');

/** socketpair(2): two connected UNIX sockets, the caller's to close. @throws SystemError */
export function socketPair(): [number, number] {
  const descriptors = new Int32Array(new ArrayBuffer(128), 0, 2);
  const bytes = new Uint8Array(descriptors.buffer);
  checked('socketpair', socketpairNative()(AF_UNIX, SOCK_STREAM_NONBLOCK_CLOEXEC, 0, bytes));
  return [descriptors[0] ?? -1, descriptors[1] ?? -1];
}
