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
  /** Ends the making and the copying; nothing half-made is left. */
  readonly signal?: AbortSignal;
}

/**
 * A Debian trixie with fio and nvme-cli that SeaBIOS and UEFI boot, root without a password, a login on
 * ttyS0. The first call with a recipe takes a minute.
 */
export async function debianImageForTests(
  wishes: DebianImageWishes = {},
): Promise<DebianImageForTests> {
  const place = await mkdtemp(join(wishes.directory ?? tmpdir(), 'sealbus-debian-'));
  const file = join(place, 'debian.img');
  try {
    await copyOfOriginal(wishes, file);
  } catch (error) {
    await rm(place, { recursive: true, force: true });
    throw error;
  }
  return {
    file,
    [Symbol.asyncDispose]: () => rm(place, { recursive: true, force: true }),
  };
}

/** Makes the original where it is not there; those of older recipes go when a newer one is made. */
async function copyOfOriginal(
  { packages = [], bytes = 4 * 2 ** 30, signal = new AbortController().signal }: DebianImageWishes,
  copy: string,
): Promise<void> {
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
  const lock = await lockFile(join(cache, 'lock'), { signal });
  try {
    const name = `${recipe}-${key}.img`;
    const original = join(cache, name);
    const names = readdirSync(cache);
    if (!names.includes(name)) {
      for (const old of names.filter((one) => one !== 'lock' && !one.startsWith(recipe))) {
        rmSync(join(cache, old), { recursive: true });
      }
      await makeOriginal(join(cache, 'making'), original, { packages: wanted, bytes, signal });
    }
    const options = ['--reflink=auto', '--sparse=always'];
    await runCommand('cp', [...options, '--', original, copy], { timeout_ms: 300_000, signal });
  } finally {
    lock[Symbol.dispose]();
  }
}

async function makeOriginal(
  making: string,
  original: string,
  wishes: {
    readonly packages: readonly string[];
    readonly bytes: number;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  rmSync(making, { recursive: true, force: true });
  mkdirSync(making);
  const file = join(making, 'debian.img');
  try {
    await makeDebianImage({ file, ...wishes });
    await rename(file, original);
  } finally {
    rmSync(making, { recursive: true, force: true });
  }
}
