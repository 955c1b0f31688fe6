/** The kernels that a guest may run, by what a user calls them. */
import { resolve } from 'node:path';
import { SetupError } from './setup-error.ts';

/** Names the kernel where no `--kernel` does, so that tests and what they start see the same one. */
export const kernelVariable = 'SEALBUS_KERNEL';

export type KernelChoice =
  /** The newest cloud kernel of a suite of Debian, as of when it was fetched. */
  | { readonly kind: 'suite'; readonly suite: 'trixie' | 'trixie-backports' }
  /** One of Debian's cloud kernels, as `uname -r` prints it. */
  | { readonly kind: 'release'; readonly release: string }
  /** A kernel that was built here: its build directory, absolute. */
  | { readonly kind: 'directory'; readonly directory: string };

/** Debian's names of what `uname -r` prints; flavours other than cloud lack virtio until modules load. */
const releasePattern = /^\d+\.\d+[\w.+~-]*-cloud-amd64$/;

/**
 * `trixie`, `trixie-backports`, a release such as `6.12.107+deb13-cloud-amd64`, or the directory of a
 * built kernel, which has a slash in its name.
 * @throws SetupError where it is none of these
 */
export function parseKernel(text: string): KernelChoice {
  if (text === 'trixie' || text === 'trixie-backports') return { kind: 'suite', suite: text };
  if (releasePattern.test(text)) return { kind: 'release', release: text };
  if (text.includes('/')) return { kind: 'directory', directory: resolve(text) };
  throw new SetupError({
    expected: 'the name of a kernel',
    got: JSON.stringify(text),
    remedy: kernelNames,
  });
}

/** @throws SetupError where the environment names none that there is */
export function kernelOf(
  env: Readonly<Record<string, string | undefined>>,
  named?: string,
): KernelChoice {
  return parseKernel(named ?? (env[kernelVariable] || 'trixie'));
}

/** What {@link parseKernel} takes for it. */
export function kernelName(choice: KernelChoice): string {
  if (choice.kind === 'suite') return choice.suite;
  return choice.kind === 'release' ? choice.release : choice.directory;
}

export const kernelNames =
  "There are 'trixie' (6.12, the default), 'trixie-backports' (the newest there), a release of " +
  "Debian's cloud kernels such as '6.12.107+deb13-cloud-amd64', and the directory of a kernel that " +
  "you built, such as './linux'. 'sealbus doctor' lists those that are here.";
