/** Debian images for guest tests and benchmarks: made once for each recipe, handed out as copies. */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeDebianImage } from '../image/debian-image.ts';
import { runCommand } from '../setup/command.ts';
import { lockFile } from '../setup/file-lock.ts';
import { grubRecipe } from '../setup/grub.ts';
import { contentKey, guestCache } from '../vm/guest-build.ts';

export interface DebianImageForTests extends AsyncDisposable {
  /** A copy to be written to; gone when disposed of. */
  readonly file: string;
}

export interface DebianImageWishes {
  /** Beside fio and nvme-cli. */
  readonly packages?: readonly string[];
  /** Size of the disk. */
  readonly bytes?: number;
  /** Where the copy goes: /dev/shm, say, to have it in memory. The system's temporary directory else. */
  readonly directory?: string;
}

/**
 * A Debian trixie with fio and nvme-cli that SeaBIOS and UEFI boot, root without a password, a login on
 * ttyS0. The first call with a recipe takes a minute.
 */
export async function debianImageForTests(
  wishes: DebianImageWishes = {},
): Promise<DebianImageForTests> {
  const original = await madeOnce(wishes);
  const place = await mkdtemp(join(wishes.directory ?? tmpdir(), 'sealbus-debian-'));
  const file = join(place, 'debian.img');
  const copy = ['--reflink=auto', '--sparse=always', '--', original, file];
  await runCommand('cp', copy, { timeout_ms: 300_000 });
  return {
    file,
    [Symbol.asyncDispose]: () => rm(place, { recursive: true, force: true }),
  };
}

/** Those of older recipes go when a newer one is made. */
async function madeOnce({
  packages = [],
  bytes = 4 * 2 ** 30,
}: DebianImageWishes): Promise<string> {
  const wanted = ['fio', 'nvme-cli', ...packages];
  const sources = fileURLToPath(new URL('../image/', import.meta.url));
  const paths = readdirSync(sources, { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(ts|sh)$/.test(name))
    .sort()
    .map((name) => join(sources, name));
  const recipe = contentKey(paths, [String(grubRecipe.recipe)]);
  const key = contentKey([], [...wanted, String(bytes)]);
  const cache = join(guestCache(), 'debian-for-tests');
  await mkdir(cache, { recursive: true });
  const lock = await lockFile(join(cache, 'lock'));
  try {
    const file = join(cache, `${recipe}-${key}.img`);
    const names = readdirSync(cache);
    if (names.includes(`${recipe}-${key}.img`)) return file;
    for (const name of names.filter((name) => name !== 'lock' && !name.startsWith(recipe))) {
      rmSync(join(cache, name), { recursive: true });
    }
    const making = join(cache, 'making');
    rmSync(making, { recursive: true, force: true });
    mkdirSync(making);
    const fresh = join(making, 'debian.img');
    const { signal } = new AbortController();
    await makeDebianImage({ file: fresh, packages: wanted, bytes, signal });
    await rename(fresh, file);
    rmSync(making, { recursive: true, force: true });
    return file;
  } finally {
    lock[Symbol.dispose]();
  }
}
