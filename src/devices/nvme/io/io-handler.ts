import type { NamespaceGate } from '../namespace-gate.ts';
import { Status } from '../status.ts';
import type { IoCommand } from './io-command.ts';

/** What an I/O command may look at. */
export interface IoSurroundings {
  readonly gates: readonly NamespaceGate[];
  /** MDTS in bytes. */
  readonly transferBytesMax: number;
  /** The volatile write cache is on: a write without FUA need not be durable. */
  readonly writeCache: boolean;
}

/** One command of the NVM command set (NVMe 1.4 §6). It never throws for what a host asks. */
export interface IoHandler {
  /** Checks the command, and says what data it moves and what memory it needs. */
  prepare(command: IoCommand, around: IoSurroundings): Status;
  /**
   * Called when the host's data is there, and again after each storage request, `command.step` being
   * how many there were: makes the next request and answers true, or false where it is finished, with
   * `command.status` where it failed.
   */
  next(command: IoCommand, around: IoSurroundings): boolean;
}

/** Bits of command dword 12 that say how to treat protection information (Figure 360: PRINFO). */
const PROTECTION = 0x3c00_0000;
const FORCE_UNIT_ACCESS = 0x4000_0000;

/** The range of blocks that Read, Write, Compare, Verify and Write Zeroes name. */
export class BlockRange {
  /** Bytes in the storage. */
  offset = 0;
  bytes = 0;

  /** Checks SLBA and NLB (dwords 10 to 12) against the namespace, of any 64-bit value. */
  read(command: IoCommand): Status {
    const { words, gate } = command;
    if (gate === undefined) return Status.invalidNamespaceOrFormat;
    const { namespace } = gate;
    // No namespace here is formatted with protection information (§8.3).
    if (((words[12] as number) & PROTECTION) !== 0) return Status.invalidField;
    const blocks = ((words[12] as number) & 0xffff) + 1;
    // Exact to 2^53; above, it is far outside whatever the sum rounds to.
    const first = (words[11] as number) * 0x1_0000_0000 + (words[10] as number);
    if (first + blocks > namespace.blocks) return Status.lbaOutOfRange;
    this.offset = first * namespace.blockBytes;
    this.bytes = blocks * namespace.blockBytes;
    return Status.success;
  }
}

/** Commands are prepared one at a time: one range serves them all. */
export const range = new BlockRange();

export function forcesUnitAccess(command: IoCommand): boolean {
  return ((command.words[12] as number) & FORCE_UNIT_ACCESS) !== 0;
}

/** What a command that alters the namespace comes to where it may not be altered. */
export function writable(command: IoCommand): Status {
  const namespace = command.gate?.namespace;
  if (namespace === undefined) return Status.invalidNamespaceOrFormat;
  if (namespace.writeProtected) return Status.namespaceWriteProtected;
  return namespace.storage.readOnly ? Status.writeToReadOnlyRange : Status.success;
}
