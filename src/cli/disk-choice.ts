/** `--disk`: raw images and block devices of the host as namespaces of one NVMe controller. */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { doorbellsFor } from '../devices/nvme/doorbells.ts';
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
  /** How the guest's memory is held. */
  readonly memory: 'sealed' | 'plain';
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
  { memory, snapshot, log, signal }: DiskOptions,
): Promise<Disks> {
  const storages: BlockStorage[] = [];
  const dispose = async () => {
    for (const storage of storages) await storage.close();
  };
  try {
    for (const { path, readOnly } of choices) {
      const opened =
        snapshot && !readOnly
          ? await openCopy(path, log, signal)
          : await openStorage(path, { readOnly, log });
      storages.push(opened);
    }
    const namespaces = storages.map((storage) => ({ storage }));
    const nvme = new Nvme({ namespaces, doorbells: doorbellsFor(memory) });
    return { nvme, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** The copy has no name any more when this returns: it is gone with its last descriptor. */
async function openCopy(
  path: string,
  log: DiskOptions['log'],
  signal: AbortSignal,
): Promise<BlockStorage> {
  // Locked meanwhile, so that nobody changes it under the copy; and whatever cannot be one says so.
  const original = await openStorage(path, { readOnly: true, log: () => {} });
  try {
    const place = await mkdtemp(join(tmpdir(), 'sealbus-disk-'));
    try {
      const copy = join(place, basename(path));
      const args = ['--reflink=auto', '--sparse=always', '--', path, copy];
      await runCommand('cp', args, { timeout_ms: 30 * 60_000, signal });
      await chmod(copy, 0o600);
      return await openStorage(copy, { readOnly: false, log });
    } finally {
      await rm(place, { recursive: true, force: true });
    }
  } finally {
    await original.close();
  }
}
