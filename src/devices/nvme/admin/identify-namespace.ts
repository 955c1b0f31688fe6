import { stat } from 'node:fs/promises';
import type { BlockBytes, Namespace } from '../namespace.ts';
import type { NamespaceIdentifiers } from './namespace-identifiers.ts';
import { list, nested, raw, structure, u8, u16, u32, u64, u128 } from './structure.ts';

/** LBA Format, NVMe 1.4 §5.15.2.1. */
const lbaFormat = structure(4, { ms: u16(0), lbads: u8(2), rp: u8(3) });

/** Identify Namespace data structure, NVMe 1.4 §5.15.2.1, Figure 245. */
const identifyNamespace = structure(4096, {
  nsze: u64(0),
  ncap: u64(8),
  nuse: u64(16),
  nsfeat: u8(24),
  nlbaf: u8(25),
  flbas: u8(26),
  mc: u8(27),
  dpc: u8(28),
  dps: u8(29),
  nmic: u8(30),
  rescap: u8(31),
  fpi: u8(32),
  dlfeat: u8(33),
  noiob: u16(46),
  nvmcap: u128(48),
  npwg: u16(64),
  npwa: u16(66),
  npdg: u16(68),
  npda: u16(70),
  nows: u16(72),
  anagrpid: u32(92),
  nsattr: u8(99),
  nguid: raw(104, 16),
  eui64: raw(120, 8),
  lbaFormats: list(nested(128, lbaFormat), 16),
});

/** The formats offered, by their index (LBAF): no metadata, no protection information. */
export const LBA_FORMATS: readonly BlockBytes[] = [512, 4096];

const NSFEAT = { thinProvisioning: 1 << 0, optimalIo: 1 << 4 };
/**
 * Deallocated blocks read as zeros (bits 2:0 001b). Write Zeroes takes its Deallocate bit for a hint
 * that it need not follow, which is not the support that bit 3 would declare.
 */
const DLFEAT = { readsZeros: 1 };
const NSATTR = { writeProtected: 1 << 0 };
const FPI = { supported: 1 << 7 };
/** Relative performance (bits 1:0): best, better. */
const RP = { best: 0, better: 1 };

/** What a host's file systems allocate, write and punch in. */
const BACKING_BLOCK_BYTES = 4096;

export interface NamespaceState {
  readonly identifiers: NamespaceIdentifiers;
  /** Blocks that the storage holds room for. */
  readonly blocksInUse: number;
  /** Percent of a Format NVM that is under way, 0 where none is. */
  readonly formatRemaining: number;
}

/** The data of Identify with CNS 00h and 11h. */
export function identifyNamespaceData(
  namespace: Namespace,
  state: NamespaceState,
): Uint8Array<ArrayBuffer> {
  const { blocks, blockBytes, storage } = namespace;
  const { discards } = storage;
  const granularity = BACKING_BLOCK_BYTES / blockBytes - 1;
  return identifyNamespace.write({
    nsze: blocks,
    ncap: blocks,
    nuse: state.blocksInUse,
    nsfeat: NSFEAT.optimalIo | (discards ? NSFEAT.thinProvisioning : 0),
    nlbaf: LBA_FORMATS.length - 1,
    flbas: LBA_FORMATS.indexOf(blockBytes),
    fpi: FPI.supported | state.formatRemaining,
    dlfeat: discards ? DLFEAT.readsZeros : 0,
    nvmcap: blocks * blockBytes,
    npwg: granularity,
    npwa: granularity,
    npdg: granularity,
    npda: granularity,
    nsattr: namespace.readOnly ? NSATTR.writeProtected : 0,
    nguid: state.identifiers.nguid,
    eui64: state.identifiers.eui64,
    lbaFormats: LBA_FORMATS.map((bytes) => ({
      lbads: Math.log2(bytes),
      rp: bytes === BACKING_BLOCK_BYTES ? RP.best : RP.better,
    })),
  });
}

/**
 * NUSE: blocks that the host's file system has allocated to the file. All of them where it cannot be
 * known: a block device, a file that cannot be looked at.
 */
export async function blocksInUse({ storage, blocks, blockBytes }: Namespace): Promise<number> {
  if (!storage.discards) return blocks;
  try {
    const status = await stat(storage.path);
    if (!status.isFile()) return blocks;
    // st_blocks counts 512 bytes, whatever the file system's own blocks are.
    return Math.min(blocks, Math.ceil((status.blocks * 512) / blockBytes));
  } catch {
    return blocks;
  }
}
