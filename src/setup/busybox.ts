import { chmodSync, copyFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { findMade, makePart, type PartRecipe } from './part-cache.ts';
import type { Parts } from './parts.ts';
import { type Making, unpackPackages } from './recipe.ts';

type BusyboxPart = Parts['busybox'];

export const busyboxRecipe: PartRecipe = {
  part: 'busybox',
  recipe: 1,
  needsBytes: 16 * 2 ** 20,
};

export function findBusybox(root: string): BusyboxPart | undefined {
  return findMade<BusyboxPart>(root, busyboxRecipe)?.record;
}

/** Debian's busybox-static: one program that needs nothing of the guest it runs in. */
export async function makeBusybox(making: Making): Promise<BusyboxPart> {
  const archive = await making.archive();
  const version = await archive.candidate('busybox-static');
  return await makePart(
    making.root,
    busyboxRecipe,
    version,
    async (temporary, final) => {
      const tree = join(temporary, 'tree');
      const files = await archive.download('busybox', ['busybox-static'], join(temporary, 'deb'));
      await unpackPackages(making, 'busybox', files, tree);
      copyFileSync(join(tree, 'usr/bin/busybox'), join(temporary, 'busybox'));
      chmodSync(join(temporary, 'busybox'), 0o755);
      await rm(tree, { recursive: true });
      await rm(join(temporary, 'deb'), { recursive: true });
      const path = join(final, 'busybox');
      return { record: { version, path }, files: [path] };
    },
    making.signal,
  );
}
