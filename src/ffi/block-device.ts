/** ioctl(2) of block devices (linux/fs.h). */
import { checked, declared } from './libc.ts';

const BLKGETSIZE64 = 0x8008_1272;

const ioctlNative = declared('int ioctl(int fd, ulong request, void *argument)');

/** Bytes of a block device. @throws SystemError (ENOTTY: it is none) */
export function blockDeviceBytes(fd: number): number {
  const bytes = new BigUint64Array(16);
  const answer = new Uint8Array(bytes.buffer);
  checked('ioctl', ioctlNative()(fd, BLKGETSIZE64, answer), 'BLKGETSIZE64');
  return Number(bytes[0]);
}
