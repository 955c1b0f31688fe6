import { Status } from '../status.ts';
import type { IoCommand } from './io-command.ts';
import type { IoHandler } from './io-handler.ts';
import { writable } from './io-handler.ts';

/** Figure 364: context attributes, length in blocks, starting block. */
const RANGE_BYTES = 16;
const DEALLOCATE = 1 << 2;

/**
 * Dataset Management, NVMe 1.4 §6.7: up to 256 ranges. Deallocate is taken up, and leaves the blocks
 * reading as zeros or as they were; access hints are read and dropped.
 */
export const datasetManagement: IoHandler = {
  prepare(command) {
    if (((command.words[11] as number) & DEALLOCATE) !== 0) {
      const refused = writable(command);
      if (refused !== Status.success) return refused;
    }
    command.transferBytes = (((command.words[10] as number) & 0xff) + 1) * RANGE_BYTES;
    return Status.success;
  },
  next(command) {
    const { data, gate } = command;
    if (data === undefined || gate === undefined) return false;
    const { namespace } = gate;
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    if (command.step === 0) {
      // All ranges before the first is given up, so that a refusal alters nothing.
      for (let at = 0; at < data.length; at += RANGE_BYTES) {
        if (firstBlock(view, at) + view.getUint32(at + 4, true) > namespace.blocks) {
          command.status = Status.lbaOutOfRange;
          return false;
        }
      }
      command.rangeAt = 0;
      if (((command.words[11] as number) & DEALLOCATE) === 0) return false;
    }
    return nextRange(command, view, namespace.blockBytes);
  },
};

function nextRange(command: IoCommand, view: DataView, blockBytes: number): boolean {
  while (command.rangeAt < view.byteLength) {
    const at = command.rangeAt;
    command.rangeAt += RANGE_BYTES;
    const blocks = view.getUint32(at + 4, true);
    if (blocks === 0) continue;
    const offset = firstBlock(view, at) * blockBytes;
    return command.request('discard', offset, blocks * blockBytes, undefined, false);
  }
  return false;
}

/** Exact to 2^53; above, far outside any namespace. */
function firstBlock(view: DataView, at: number): number {
  return view.getUint32(at + 12, true) * 0x1_0000_0000 + view.getUint32(at + 8, true);
}
