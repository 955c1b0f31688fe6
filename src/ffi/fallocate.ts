/** fallocate(2) on a thread of libuv's pool: it may wait for a disk. */
import koffi from 'koffi';

export const FALLOC_FL_KEEP_SIZE = 0x01;
export const FALLOC_FL_PUNCH_HOLE = 0x02;
export const FALLOC_FL_ZERO_RANGE = 0x10;

type Allocate = {
  async(
    fd: number,
    mode: number,
    offset: number,
    length: number,
    done: (error: unknown, result: number) => void,
  ): void;
};

let allocate: Allocate | undefined;

/** Calls `done` from the event loop with 0 or minus the errno (koffi keeps a call's own for its callback). */
export function fallocateOnThread(
  fd: number,
  mode: number,
  offset: number,
  length: number,
  done: (result: number) => void,
): void {
  allocate ??= koffi
    .load(null)
    .func('int fallocate(int fd, int mode, int64_t offset, int64_t length)') as unknown as Allocate;
  allocate.async(fd, mode, offset, length, (error, result) => {
    const errno = koffi.errno();
    done(error === null && result === 0 ? 0 : -(errno || (koffi.os.errno.EIO ?? 5)));
  });
}
