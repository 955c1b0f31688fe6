import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findBuiltKernel } from '../../../src/setup/built-kernel.ts';
import { kernelModule } from '../../../src/setup/kernel-module.ts';
import { SetupError } from '../../../src/setup/setup-error.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-built-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function put(name: string, content = ''): void {
  const path = join(directory, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}

const config = [
  ...['X86_64', 'PVH', 'MODULES', 'BLK_DEV_INITRD', 'BINFMT_ELF', 'BINFMT_SCRIPT'],
  ...['SERIAL_8250_CONSOLE', 'DEVTMPFS', 'PROC_FS', 'SYSFS', 'TMPFS', 'UNIX98_PTYS'],
  ...['PCI_MSI', 'VIRTIO_PCI', 'VIRTIO_CONSOLE'],
].map((name) => `CONFIG_${name}=y`);

/** What a build leaves, as far as it is looked at. */
function build(lines: readonly string[] = config): void {
  put('include/config/kernel.release', '6.12.9-mine\n');
  put('.config', `${lines.join('\n')}\n`);
  for (const name of ['vmlinux', 'arch/x86/boot/bzImage', 'Module.symvers', 'Makefile']) put(name);
}

describe('a kernel in its build directory', () => {
  it('is taken as it lies there', () => {
    build();
    expect(findBuiltKernel(directory)).toMatchObject({
      release: '6.12.9-mine',
      vmlinux: join(directory, 'vmlinux'),
      bzImage: join(directory, 'arch/x86/boot/bzImage'),
      modules: directory,
      build: { directory, variables: {} },
    });
  });

  it('that clang compiled has its modules compiled by clang', () => {
    build([...config, 'CONFIG_CC_IS_CLANG=y']);
    expect(findBuiltKernel(directory).build.variables).toEqual({ LLVM: '1' });
  });

  it('has another identity once it is built again', () => {
    build();
    const { identity } = findBuiltKernel(directory).build;
    expect(findBuiltKernel(directory).build.identity).toBe(identity);
    utimesSync(join(directory, 'vmlinux'), 1, 1);
    expect(findBuiltKernel(directory).build.identity).not.toBe(identity);
  });

  it.each([
    '.config',
    'include/config/kernel.release',
    'vmlinux',
    'arch/x86/boot/bzImage',
    'Module.symvers',
  ])('is refused without %s, which is named', (name) => {
    build();
    rmSync(join(directory, name));
    expect(() => findBuiltKernel(directory)).toThrow(SetupError);
    expect(() => findBuiltKernel(directory)).toThrow(new RegExp(`${name}.*ENOENT.*'make'`));
  });

  it('is refused where the agent would find no port, or none before modules are loaded', () => {
    build(config.map((line) => line.replace('VIRTIO_CONSOLE=y', 'VIRTIO_CONSOLE=m')));
    expect(() => findBuiltKernel(directory)).toThrow(
      /got one without CONFIG_VIRTIO_CONSOLE=y\. Set/,
    );
    build(['# CONFIG_PVH is not set', ...config.filter((line) => !line.includes('PVH'))]);
    expect(() => findBuiltKernel(directory)).toThrow(/got one without CONFIG_PVH=y\. Set/);
  });

  it('is refused where there is no such directory', () => {
    expect(() => findBuiltKernel(join(directory, 'none'))).toThrow(/none.*ENOENT/);
  });
});

describe('a module of the kernel', () => {
  const find = () =>
    Buffer.from(kernelModule({ modules: directory, release: '6.12.9' }, 'drivers/iommu/some'));

  it('is where Debian ships it, or where a build leaves it', () => {
    put('drivers/iommu/some.ko', 'built');
    expect(`${find()}`).toBe('built');
    put('kernel/drivers/iommu/some.ko.xz', 'shipped');
    expect(`${find()}`).toBe('shipped');
  });

  it('is said to be missing by its name and the kernel’s', () => {
    expect(find).toThrow(/drivers\/iommu\/some of the kernel 6\.12\.9 under .*got none/);
  });
});
