/** Debian's cloud kernels: image, ELF vmlinux, modules, and headers that build modules. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { findBuiltKernel } from './built-kernel.ts';
import { runCommand } from './command.ts';
import type { DebianArchive } from './debian-archive.ts';
import type { KernelChoice } from './kernel-choice.ts';
import { libraryPackages, prepareHeaders } from './kernel-headers.ts';
import { findMade, listMade, makePart, type PartRecipe } from './part-cache.ts';
import type { KernelPart } from './parts.ts';
import { type Making, unpackPackages } from './recipe.ts';
import { SetupError } from './setup-error.ts';
import { extractVmlinux } from './vmlinux.ts';

type DebianChoice = Exclude<KernelChoice, { kind: 'directory' }>;

/** A part for the newest of each suite, so that fetching one leaves the others; one for all releases. */
const recipes = {
  trixie: { part: 'kernel', recipe: 1, needsBytes: 300 * 2 ** 20 },
  'trixie-backports': { part: 'kernel-backports', recipe: 1, needsBytes: 300 * 2 ** 20 },
  release: { part: 'kernel-release', recipe: 1, needsBytes: 300 * 2 ** 20 },
} as const satisfies Readonly<Record<string, PartRecipe>>;

/** The part of the cache that a chosen kernel is; `kernel` also for one that was built here. */
export function kernelPartName(
  choice: KernelChoice,
): (typeof recipes)[keyof typeof recipes]['part'] {
  return choice.kind === 'directory' ? 'kernel' : recipeOf(choice).part;
}

/** The suites that {@link makeKernel} needs of the archive. */
export function kernelSuites(choice: KernelChoice): readonly string[] {
  if (choice.kind === 'directory') return [];
  if (choice.kind === 'suite' && choice.suite === 'trixie') return ['trixie'];
  return ['trixie', 'trixie-backports'];
}

/** APT preferences that take the chosen suite's newest kernel. */
export function kernelPreferences(choice: KernelChoice): string {
  if (choice.kind !== 'suite') return '';
  return `Package: ${metapackage}\nPin: release n=${choice.suite}\nPin-Priority: 900\n`;
}

const metapackage = 'linux-image-cloud-amd64';

/**
 * The kernel, as far as it is here.
 * @throws SetupError where a directory holds no kernel that a guest can boot
 */
export function findKernel(root: string, choice: KernelChoice): KernelPart | undefined {
  if (choice.kind === 'directory') return findBuiltKernel(choice.directory);
  const recipe = recipeOf(choice);
  if (choice.kind === 'suite') return findMade<KernelPart>(root, recipe)?.record;
  return madeKernels(root).find(({ kernel }) => kernel.release === choice.release)?.kernel;
}

/** All of Debian's that are in the cache, each with the name of its part. */
export function madeKernels(
  root: string,
): readonly { readonly part: string; readonly kernel: KernelPart }[] {
  return Object.values(recipes).flatMap((recipe) =>
    listMade<KernelPart>(root, recipe).map(({ record }) => ({ part: recipe.part, kernel: record })),
  );
}

/** @throws SetupError where the archive has no such kernel; what it has is named */
export async function makeKernel(making: Making, choice: KernelChoice): Promise<KernelPart> {
  if (choice.kind === 'directory') return findBuiltKernel(choice.directory);
  const { progress, signal } = making;
  const archive = await making.archive();
  const release = await releaseOf(archive, choice);
  const abi = release.slice(0, -'-cloud-amd64'.length);
  const image = `linux-image-${release}`;
  // Until 6.12 all of it was in the image's package; later ones are cut into several.
  const pieces = ['binary', 'modules', 'base'].map((piece) => `linux-${piece}-${release}`);
  const depended = await archive.dependencies(image);
  const headers = [`linux-headers-${release}`, `linux-headers-${abi}-common`];
  const names = [
    ...[image, ...pieces.filter((name) => depended.includes(name))],
    ...[...headers, `linux-kbuild-${abi}`, ...libraryPackages],
  ];
  const { part } = recipeOf(choice);

  return await makePart(
    making.root,
    recipeOf(choice),
    await archive.candidate(image),
    async (temporary, final) => {
      const debs = join(temporary, 'deb');
      await unpackPackages(making, part, await archive.download(part, names, debs), temporary);
      await rm(debs, { recursive: true });

      progress({ part, phase: 'taking vmlinux out of the bzImage' });
      const modules = join('usr/lib/modules', release);
      const bzImage = [join('boot', `vmlinuz-${release}`), join(modules, 'vmlinuz')].find((name) =>
        existsSync(join(temporary, name)),
      );
      if (bzImage === undefined) {
        throw new SetupError({
          expected: `a vmlinuz in ${image} and what it depends on`,
          got: 'none where Debian has put it so far',
          remedy: 'The archive has moved on; sealbus needs an update.',
        });
      }
      const elf = await extractVmlinux(readFileSync(join(temporary, bzImage)), (packed) =>
        unxz(packed, temporary, signal),
      );
      const vmlinux = join('boot', `vmlinux-${release}`);
      await mkdir(join(temporary, 'boot'), { recursive: true });
      writeFileSync(join(temporary, vmlinux), elf);

      progress({ part, phase: 'making the headers build here' });
      const kbuild = join('usr/lib', `linux-kbuild-${abi}`);
      const build = join('usr/src', `linux-headers-${release}`);
      const variables = await prepareHeaders(temporary, final, { kbuild, build }, signal);
      for (const name of ['usr/share', 'usr/bin', 'usr/sbin', 'etc', 'var', 'lib64', 'usr/lib64']) {
        await rm(join(temporary, name), { recursive: true, force: true });
      }
      await rm(join(temporary, 'usr/lib/x86_64-linux-gnu'), { recursive: true });

      const record: KernelPart = {
        release,
        vmlinux: join(final, vmlinux),
        bzImage: join(final, bzImage),
        modules: join(final, modules),
        build: { directory: join(final, build), variables },
      };
      const files = [
        record.vmlinux,
        record.bzImage,
        join(record.modules, 'modules.order'),
        join(record.build.directory, 'Module.symvers'),
        join(record.build.directory, 'Makefile'),
        join(final, kbuild, 'scripts/mod/modpost'),
      ];
      return { record, files };
    },
    signal,
  );
}

function recipeOf(choice: DebianChoice) {
  return choice.kind === 'suite' ? recipes[choice.suite] : recipes.release;
}

async function releaseOf(archive: DebianArchive, choice: DebianChoice): Promise<string> {
  if (choice.kind === 'suite') {
    const version = await archive.candidate(metapackage);
    const image = (await archive.dependencies(metapackage)).find((name) =>
      /^linux-image-\d\S+-cloud-amd64$/.test(name),
    );
    if (image) return image.slice('linux-image-'.length);
    throw new SetupError({
      expected: `${metapackage} of ${choice.suite} to depend on a kernel`,
      got: `version ${version}, which does not`,
      remedy: 'The archive has moved on; sealbus needs an update.',
    });
  }
  // Of a kernel that is no longer built, odd packages stay in the index; the headers go with it.
  const releases = (await archive.packageNames('linux-headers-'))
    .map((name) => name.slice('linux-headers-'.length))
    .filter((name) => /^\d.*-cloud-amd64$/.test(name));
  if (releases.includes(choice.release)) return choice.release;
  throw new SetupError({
    expected: `a cloud kernel ${choice.release} in trixie or trixie-backports`,
    got: `none; there are ${releases.sort().join(', ') || 'none at all'}`,
    remedy: "Name one of these, or 'trixie' or 'trixie-backports' for the newest.",
  });
}

async function unxz(packed: Buffer, directory: string, signal?: AbortSignal): Promise<Buffer> {
  const file = join(directory, 'payload');
  writeFileSync(`${file}.xz`, packed);
  await runCommand('xz', ['-d', '--single-stream', `${file}.xz`], { timeout_ms: 120_000, signal });
  const unpacked = readFileSync(file);
  await rm(file);
  return unpacked;
}
