/**
 * A kernel that was built here, in its own build directory (the source's, or that of `make O=`): with
 * KASAN, lockdep, or a patch of one's own. Nothing of it is copied.
 */
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { KernelPart } from './parts.ts';
import { SetupError } from './setup-error.ts';

/** What a guest cannot boot without, since all of it is wanted before any module can be loaded. */
const builtIn = [
  ...['X86_64', 'PVH', 'MODULES', 'BLK_DEV_INITRD', 'BINFMT_ELF', 'BINFMT_SCRIPT'],
  ...['SERIAL_8250_CONSOLE', 'DEVTMPFS', 'PROC_FS', 'SYSFS', 'TMPFS', 'UNIX98_PTYS'],
  ...['PCI_MSI', 'VIRTIO_PCI', 'VIRTIO_CONSOLE'],
] as const;

/**
 * Looks at a build directory.
 * @throws SetupError where no kernel was built in it, or one that does not do as a guest's
 */
export function findBuiltKernel(directory: string): KernelPart {
  const read = (name: string) => {
    try {
      return readFileSync(join(directory, name), 'utf8');
    } catch (error) {
      throw notBuilt(directory, `${name} cannot be read (${codeOf(error)})`);
    }
  };
  const release = read('include/config/kernel.release').trim();
  const config = read('.config');
  const lacking = builtIn.filter((name) => !isBuiltIn(config, name));
  if (lacking.length > 0) {
    throw new SetupError({
      expected: `the kernel in ${directory} to have ${builtIn.map(option).join(', ')}`,
      got: `one without ${lacking.map(option).join(', ')}`,
      remedy: 'Set these in its .config and build it again.',
    });
  }
  const stamps = ['vmlinux', 'arch/x86/boot/bzImage', 'Module.symvers', 'Makefile'].map((name) => {
    const { size, mtimeMs } = stated(directory, name);
    return `${name} ${size} ${mtimeMs}`;
  });
  return {
    release,
    vmlinux: join(directory, 'vmlinux'),
    bzImage: join(directory, 'arch/x86/boot/bzImage'),
    modules: directory,
    build: {
      directory,
      variables: isBuiltIn(config, 'CC_IS_CLANG') ? { LLVM: '1' } : {},
      identity: stamps.join('\n'),
    },
  };
}

function stated(directory: string, name: string): { size: number; mtimeMs: number } {
  try {
    return statSync(join(directory, name));
  } catch (error) {
    throw notBuilt(directory, `no ${name} (${codeOf(error)})`);
  }
}

function isBuiltIn(config: string, name: string): boolean {
  return config.split('\n').includes(option(name));
}

function option(name: string): string {
  return `CONFIG_${name}=y`;
}

function notBuilt(directory: string, got: string): SetupError {
  return new SetupError({
    expected: `the build directory of a kernel at ${directory}`,
    got,
    remedy: "Run 'make' in the kernel's source, and name the directory that it built in.",
  });
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error);
}
