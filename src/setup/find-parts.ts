import { closeSync, constants, existsSync, openSync } from 'node:fs';
import { foundParts } from './ensure-parts.ts';
import { grubPart } from './grub.ts';
import { findProgram, installCommand, libcHeader } from './host-programs.ts';
import { findKernel, kernelPartName, madeKernels } from './kernel.ts';
import { type KernelChoice, kernelName, kernelOf, kernelVariable } from './kernel-choice.ts';
import { ovmfPart } from './ovmf.ts';
import { cacheRoot } from './part-cache.ts';
import type { PartReport, Parts } from './parts.ts';
import { SetupError } from './setup-error.ts';

const getIt = 'npm run setup';

/** What `sealbus doctor` lists: every part, and what the host has and may do. Changes nothing. */
export async function findParts(): Promise<readonly PartReport[]> {
  return [...(await partReports()), ...programReports(), ...deviceReports()];
}

async function partReports(): Promise<PartReport[]> {
  const root = cacheRoot();
  const trixie = kernelOf({});
  let parts: { readonly [Name in keyof Parts]?: Parts[Name] | undefined };
  let qemuRemedy = getIt;
  try {
    parts = await foundParts(root, trixie);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    qemuRemedy = error.message; // SEALBUS_QEMU names one that does not do
    parts = await foundParts(root, trixie, undefined, { ...process.env, SEALBUS_QEMU: undefined });
    parts = { ...parts, qemu: undefined };
  }
  const { qemu, libvfioUser, busybox } = parts;
  const program = qemu?.command.find((word) => word.endsWith('/qemu-system-x86_64'));
  return [
    part('qemu', qemu?.version, program ?? qemu?.command[0], qemuRemedy),
    part('libvfio-user', libvfioUser?.version, libvfioUser?.library),
    ...kernelReports(root),
    part('busybox', busybox?.version, busybox?.path),
    ...optionalReports(root),
  ];
}

/**
 * The kernel that guests get (SEALBUS_KERNEL names it), the newest of each suite, and whatever else is
 * in the cache.
 */
function kernelReports(root: string): PartReport[] {
  const reports = madeKernels(root).map(({ part: name, kernel }) => ({
    ...part(name, kernel.release, kernel.vmlinux),
    required: false,
  }));
  const want = (choice: KernelChoice, required: boolean) => {
    const name = choice.kind === 'directory' ? kernelVariable : kernelPartName(choice);
    const kernel = findKernel(root, choice);
    const same = reports.find(({ where }) => where !== undefined && where === kernel?.vmlinux);
    if (same !== undefined) same.required ||= required;
    else {
      const get =
        name === 'kernel' ? getIt : `'sealbus setup --kernel ${kernelName(choice)}' gets it`;
      reports.push({ ...part(name, kernel?.release, kernel?.vmlinux, get), required });
    }
  };
  try {
    want(kernelOf(process.env), true);
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    reports.push({ ...part(kernelVariable, undefined, undefined, error.message), required: true });
  }
  for (const suite of ['trixie', 'trixie-backports'] as const)
    want({ kind: 'suite', suite }, false);
  return reports;
}

/** Parts that the first command fetches that needs them. */
function optionalReports(root: string): PartReport[] {
  const grub = grubPart.find(root);
  const ovmf = ovmfPart.find(root);
  const getGrub = "'sealbus image debian' gets it";
  const getOvmf = "'sealbus run --firmware uefi' gets it";
  return [
    { ...part('grub', grub?.version, grub?.coreImage, getGrub), required: false },
    { ...part('ovmf', ovmf?.version, ovmf?.code, getOvmf), required: false },
  ];
}

function part(
  name: string,
  version: string | undefined,
  where: string | undefined,
  remedy = getIt,
): PartReport {
  const base = { name, kind: 'part', required: true } as const;
  if (version === undefined || where === undefined) return { ...base, found: false, remedy };
  return { ...base, found: true, version, where };
}

/** Programs (and headers) of the host: name, what it is for, whether everything needs it, Debian's package. */
const programs = [
  ['gcc', 'builds libvfio-user and guest drivers', true],
  ['libc headers', 'what gcc builds needs them', true],
  ['make', 'builds guest drivers', true],
  ['apt-get', 'fetches parts', false],
  ['dpkg-deb', 'unpacks parts', false],
  ['tar', 'unpacks parts', false],
  ['xz', 'unpacks parts', false],
  ['setpriv', 'ends QEMU and what set-up runs when sealbus is killed', false],
  ['fusermount3', 'mounts sealed RAM where the caller is not root', false],
  ['mmdebstrap', 'makes Debian images', false],
  ['mke2fs', 'makes Debian images', false],
  ['sfdisk', 'makes Debian images', false],
  ['mkfs.fat', 'makes Debian images', false],
  ['mcopy', 'makes Debian images', false],
  ['newuidmap', 'makes Debian images where the caller is not root', false],
] as const;

function programReports(): PartReport[] {
  return programs.map(([name, purpose, required]) => {
    const where = name === 'libc headers' ? found(libcHeader) : findProgram(name);
    const base = { name, kind: 'program', required } as const;
    if (where) return { ...base, found: true, where };
    return { ...base, found: false, remedy: `${purpose}: as root, ${installCommand([name])}` };
  });
}

function found(path: string): string | undefined {
  return existsSync(path) ? path : undefined;
}

function deviceReports(): PartReport[] {
  return [
    device(
      '/dev/fuse',
      "sealed RAM needs it: as root, modprobe fuse; in a container, pass the device. Without it nothing is encrypted ('plain')",
    ),
    device(
      '/dev/kvm',
      'without it guests run under TCG, some ten times slower: join the group kvm, or enable virtualisation',
    ),
  ];
}

/** Whether the device can be opened; whether KVM then works takes a boot to say. */
function device(path: string, purpose: string): PartReport {
  const base = { name: path, kind: 'device', required: false } as const;
  try {
    closeSync(openSync(path, constants.O_RDWR));
    return { ...base, found: true, where: path };
  } catch (error) {
    const why = error instanceof Error && 'code' in error ? `${error.code}; ` : '';
    return { ...base, found: false, remedy: `${why}${purpose}` };
  }
}
