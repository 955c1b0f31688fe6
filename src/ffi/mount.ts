/** mount(2) and umount2(2). */
import { checked, declared } from './libc.ts';

export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MNT_DETACH = 2;

const mountNative = declared(
  'int mount(const char *source, const char *target, const char *type, ulong flags, const char *data)',
);

/** @throws SystemError (EPERM where the caller may not mount) */
export function mount(
  source: string,
  target: string,
  type: string,
  flags: number,
  data: string,
): void {
  checked('mount', mountNative()(source, target, type, flags, data), `mounting ${target}`);
}

const umountNative = declared('int umount2(const char *target, int flags)');

/** @throws SystemError (EINVAL: nothing is mounted there; EBUSY) */
export function umount(target: string, flags: number): void {
  checked('umount2', umountNative()(target, flags), `unmounting ${target}`);
}
