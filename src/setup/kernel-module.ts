/** Modules that come with a kernel. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { KernelPart } from './parts.ts';
import { SetupError } from './setup-error.ts';

/** As Debian ships them, and as a build leaves them. */
const places = [
  ...['ko', 'ko.xz', 'ko.zst', 'ko.gz'].map((ending) => ['kernel', ending] as const),
  ['', 'ko'] as const,
];

/**
 * A module's file, compressed as it is: the guest's kernel takes what it was configured for.
 * @param name its place in the kernel's source, such as `drivers/iommu/virtio-iommu`
 * @throws SetupError where the kernel has none
 */
export function kernelModule(
  kernel: Pick<KernelPart, 'modules' | 'release'>,
  name: string,
): Uint8Array {
  const path = places
    .map(([directory, ending]) => join(kernel.modules, directory, `${name}.${ending}`))
    .find((path) => existsSync(path));
  if (path !== undefined) return readFileSync(path);
  throw new SetupError({
    expected: `the module ${name} of the kernel ${kernel.release} under ${kernel.modules}`,
    got: 'none, built in or not configured',
    remedy: 'Take another kernel, or configure that one as a module (=m) and build it again.',
  });
}
