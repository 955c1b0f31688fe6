import { copyFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { OptionalPart } from './optional-part.ts';
import { findMade, makePart, type PartRecipe } from './part-cache.ts';
import type { OvmfPart } from './parts.ts';
import { type Making, unpackPackages } from './recipe.ts';

export const ovmfRecipe: PartRecipe = { part: 'ovmf', recipe: 1, needsBytes: 64 * 2 ** 20 };

export const ovmfPart: OptionalPart<OvmfPart> = {
  name: 'ovmf',
  find: (root) => findMade<OvmfPart>(root, ovmfRecipe)?.record,
  make: makeOvmf,
};

/** Debian's UEFI for QEMU, without Secure Boot: the images are not signed. */
async function makeOvmf(making: Making): Promise<OvmfPart> {
  const archive = await making.archive();
  const version = await archive.candidate('ovmf');
  return await makePart(
    making.root,
    ovmfRecipe,
    version,
    async (temporary, final) => {
      const tree = join(temporary, 'tree');
      const debs = join(temporary, 'deb');
      await unpackPackages(making, 'ovmf', await archive.download('ovmf', ['ovmf'], debs), tree);
      for (const name of ['OVMF_CODE_4M.fd', 'OVMF_VARS_4M.fd']) {
        copyFileSync(join(tree, 'usr/share/OVMF', name), join(temporary, name));
      }
      for (const used of [tree, debs]) await rm(used, { recursive: true });
      const code = join(final, 'OVMF_CODE_4M.fd');
      const variables = join(final, 'OVMF_VARS_4M.fd');
      return { record: { version, code, variables }, files: [code, variables] };
    },
    making.signal,
  );
}
