/**
 * GRUB from Debian, as two images that know no disk: each looks for its configuration on partition 3
 * of the disk that the firmware started it from.
 */
import { copyFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from './command.ts';
import { copyLibraries, loaderCommand } from './library-closure.ts';
import type { OptionalPart } from './optional-part.ts';
import { findMade, makePart, type PartRecipe } from './part-cache.ts';
import type { GrubPart } from './parts.ts';
import { type Making, unpackPackages } from './recipe.ts';

export const grubRecipe: PartRecipe = { part: 'grub', recipe: 1, needsBytes: 160 * 2 ** 20 };

export const grubPart: OptionalPart<GrubPart> = {
  name: 'grub',
  find: (root) => findMade<GrubPart>(root, grubRecipe)?.record,
  make: makeGrub,
};

/** Where grub.cfg is sought, on the disk that was booted (GRUB manual §17.1.18, `prefix`). */
const prefix = '(,gpt3)/boot/grub';
/** What it takes to read a configuration and a kernel from ext4, and to be looked into by hand. */
const modules = [
  ...['part_gpt', 'ext2', 'linux', 'normal', 'configfile', 'serial', 'terminal', 'boot'],
  ...['echo', 'ls', 'cat', 'test', 'reboot', 'halt'],
];

async function makeGrub(making: Making): Promise<GrubPart> {
  const archive = await making.archive();
  const version = await archive.candidate('grub-pc-bin');
  const { progress, signal } = making;
  return await makePart(
    making.root,
    grubRecipe,
    version,
    async (temporary, final) => {
      const tree = join(temporary, 'tree');
      const debs = join(temporary, 'deb');
      const names = ['grub-common', 'grub-pc-bin', 'grub-efi-amd64-bin'];
      const files = await archive.downloadClosure('grub', names, debs);
      await unpackPackages(making, 'grub', files, tree);

      progress({ part: 'grub', phase: 'making its images' });
      const libraries = join(temporary, 'lib');
      const program = join(tree, 'usr/bin/grub-mkimage');
      await copyLibraries(tree, [program], libraries, signal);
      const [loader, ...before] = loaderCommand(libraries, program);
      const make = async (format: string, more: readonly string[], output: string) => {
        const from = ['--directory', join(tree, 'usr/lib/grub', format)];
        const into = ['--output', join(temporary, output)];
        const args = ['--format', format, ...from, '--prefix', prefix, ...into];
        await runCommand(loader, [...before, ...args, ...modules, ...more], {
          timeout_ms: 60_000,
          signal,
        });
      };
      await make('i386-pc', ['biosdisk'], 'core.img');
      await make('x86_64-efi', [], 'BOOTX64.EFI');
      copyFileSync(join(tree, 'usr/lib/grub/i386-pc/boot.img'), join(temporary, 'boot.img'));
      for (const used of [tree, debs, libraries]) await rm(used, { recursive: true });
      const record: GrubPart = {
        version,
        bootImage: join(final, 'boot.img'),
        coreImage: join(final, 'core.img'),
        efiImage: join(final, 'BOOTX64.EFI'),
      };
      return { record, files: [record.bootImage, record.coreImage, record.efiImage] };
    },
    signal,
  );
}
