import type { FunctionOptions } from '../../pci/index.ts';
import type { BlockStorage, StorageBuffers } from '../../storage/block-storage.ts';
import type { Doorbells } from './doorbells.ts';
import { type BlockBytes, Namespace } from './namespace.ts';
import type { SubsystemPlace } from './subsystem-place.ts';

export const NAMESPACES_MAX = 256;

export interface NamespaceOptions {
  /** From 1. Default: one more than that of the one before. */
  readonly nsid?: number;
  /** The caller's to close, when the function is gone. */
  readonly storage: BlockStorage;
  /** Default 512. */
  readonly blockBytes?: BlockBytes;
}

export interface NvmeOptions extends FunctionOptions {
  /** By rising NSID; 1 to 256, or none for one of several controllers. */
  readonly namespaces: readonly NamespaceOptions[];
  /** Of the subsystem: at most 20 ASCII characters. */
  readonly serial?: string;
  /** Default: it is the only controller of its subsystem (see NvmeSubsystem). */
  readonly place?: SubsystemPlace;
  /**
   * How the host tells of submissions. Default `shadow`, which is right for plain memory; who knows how
   * guest memory is held says {@link doorbellsFor} it: in sealed memory `message` is faster at depth 1
   * and no slower beyond.
   */
  readonly doorbells?: Doorbells;
  /**
   * How long shadow doorbells are polled after the last activity. Default 250: longer than a guest
   * under TCG takes from a completion to its next submission.
   */
  readonly pollMicroseconds?: number;
  /** Hold completions of a busy queue, to interrupt once for many. Default true. */
  readonly coalescing?: boolean;
  /** Default: a pool of its own. */
  readonly buffers?: StorageBuffers;
}

/** @throws RangeError where they are too few or too many for a controller in that place, or their NSIDs do not rise */
export function newNamespaces(
  options: readonly NamespaceOptions[],
  place: SubsystemPlace,
): Namespace[] {
  const least = place.role === 'only' ? 1 : 0;
  if (options.length < least || options.length > NAMESPACES_MAX) {
    throw new RangeError(
      `expected ${least} to ${NAMESPACES_MAX} namespaces, got ${options.length}`,
    );
  }
  let before = 0;
  return options.map(({ nsid = before + 1, storage, blockBytes }) => {
    if (!Number.isInteger(nsid) || nsid <= before || nsid > NAMESPACES_MAX) {
      throw new RangeError(
        `expected rising NSIDs from 1 to ${NAMESPACES_MAX}, got ${nsid} after ${before}`,
      );
    }
    before = nsid;
    return new Namespace(nsid, storage, blockBytes);
  });
}

/**
 * The highest NSID that is valid, NN: it is of the whole subsystem (NVMe 1.4 §6.1.2). Each of several controllers has
 * the most that there can be, which is the same for all and tells none how many namespaces others have.
 */
export function highestNsid(namespaces: readonly Namespace[], place: SubsystemPlace): number {
  return place.role === 'only' ? (namespaces.at(-1)?.nsid ?? 0) : NAMESPACES_MAX;
}

/** @throws RangeError */
export function checkSerial(serial: string): void {
  if (/^[\x20-\x7e]{1,20}$/.test(serial)) return;
  throw new RangeError(
    `expected a serial number of 1 to 20 ASCII characters, got ${JSON.stringify(serial)}`,
  );
}
