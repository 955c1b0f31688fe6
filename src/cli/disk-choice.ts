/** `--disk`: raw images and block devices of the host as namespaces of one NVMe controller. */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { Nvme } from '../devices/nvme/nvme.ts';
import { parseRequesterId } from '../pci/requester-id.ts';
import { runCommand } from '../setup/command.ts';
import type { BlockStorage } from '../storage/block-storage.ts';
import { openStorage } from '../storage/open-storage.ts';

/** Below the places that devices without one are given, and those of the IOMMU and the agent. */
export const DISKS_ADDRESS = parseRequesterId('00:02.0');

export interface DiskChoice {
  readonly path: string;
  readonly readOnly: boolean;
}

/** `FILE` or `FILE,ro`; a comma of the name's own is doubled. @throws InvalidArgumentError */
export function parseDisk(text: string, before: readonly DiskChoice[] = []): DiskChoice[] {
  const [path = '', option, ...more] = text
    .replaceAll(',,', '\0')
    .split(',')
    .map((part) => part.replaceAll('\0', ','));
  if (path === '' || more.length > 0 || (option !== undefined && option !== 'ro')) {
    throw new InvalidArgumentError('expected FILE or FILE,ro (a comma in the name is doubled)');
  }
  return [...before, { path, readOnly: option === 'ro' }];
}

export interface Disks extends AsyncDisposable {
  /** A namespace a disk, in their order. */
  readonly nvme: Nvme;
}

export interface DiskOptions {
  /** Write to copies, which are gone at the end. */
  readonly snapshot: boolean;
  readonly log: (message: string) => void;
  readonly signal: AbortSignal;
}

/**
 * Opens them all, locked, or none. Dispose of them when the machine is gone.
 * @throws Error that names the file: missing, a directory, in use, not to be written
 */
export async function openDisks(
  choices: readonly DiskChoice[],
  { snapshot, log, signal }: DiskOptions,
): Promise<Disks> {
  const copies = snapshot ? new Copies() : undefined;
  const storages: BlockStorage[] = [];
  const dispose = async () => {
    for (const storage of storages) await storage.close();
    await copies?.remove();
  };
  try {
    for (const { path, readOnly } of choices) {
      const used = copies && !readOnly ? await copies.of(path, signal) : path;
      storages.push(await openStorage(used, { readOnly, log }));
    }
    const nvme = new Nvme({ namespaces: storages.map((storage) => ({ storage })) });
    return { nvme, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

class Copies {
  #place: string | undefined;
  #count = 0;

  async of(path: string, signal: AbortSignal): Promise<string> {
    const file = await stat(path).catch(() => undefined);
    // What is no file is left to whoever opens it, to say so.
    if (!file?.isFile()) return path;
    this.#place ??= await mkdtemp(join(tmpdir(), 'sealbus-disks-'));
    const copy = join(this.#place, `${++this.#count}-${basename(path)}`);
    const args = ['--reflink=auto', '--sparse=always', '--', path, copy];
    await runCommand('cp', args, { timeout_ms: 30 * 60_000, signal });
    return copy;
  }

  async remove(): Promise<void> {
    if (this.#place !== undefined) await rm(this.#place, { recursive: true, force: true });
  }
}
