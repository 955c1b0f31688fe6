import { Status } from '../status.ts';
import type { IoCommand } from './io-command.ts';
import {
  forcesUnitAccess,
  type IoHandler,
  type IoSurroundings,
  range,
  writable,
} from './io-handler.ts';

/** Read, NVMe 1.4 §6.9. What was acknowledged is what a read gives: FUA and access hints need nothing. */
export const read: IoHandler = {
  prepare(command, around) {
    const status = range.read(command);
    if (status !== Status.success) return status;
    if (range.bytes > around.transferBytesMax) return Status.invalidField;
    command.toHost = true;
    return transfers(command);
  },
  next(command) {
    if (command.step > 0) return false;
    return command.request('read', command.offset, command.transferBytes, command.data, false);
  },
};

/**
 * Write, §6.15. Without FUA and with the volatile write cache on, a write is complete when the host
 * operating system has it; with either of them it is complete when it would survive a loss of power.
 */
export const write: IoHandler = {
  prepare(command, around) {
    const status = range.read(command);
    if (status !== Status.success) return status;
    const refused = writable(command);
    if (refused !== Status.success) return refused;
    if (range.bytes > around.transferBytesMax) return Status.invalidField;
    return transfers(command);
  },
  next(command, around) {
    if (command.step > 0) return false;
    const durable = !around.writeCache || forcesUnitAccess(command);
    return command.request('write', command.offset, command.transferBytes, command.data, durable);
  },
};

function transfers(command: IoCommand): Status {
  command.offset = range.offset;
  command.transferBytes = range.bytes;
  return Status.success;
}

/** Compare, §6.6: what the host sends with what the namespace holds. */
export const compare: IoHandler = {
  prepare(command, around) {
    const status = range.read(command);
    if (status !== Status.success) return status;
    if (range.bytes > around.transferBytesMax) return Status.invalidField;
    command.scratchBytes = range.bytes;
    return transfers(command);
  },
  next(command) {
    const { data, scratch, step } = command;
    if (step === 0) {
      return command.request('read', command.offset, command.transferBytes, scratch, false);
    }
    if (data === undefined || scratch === undefined || Buffer.compare(data, scratch) !== 0) {
      command.status = Status.compareFailure;
    }
    return false;
  },
};

/** Bytes that Verify reads at once. */
const VERIFY_BYTES = 128 * 1024;

/** Verify, §6.14: reads the blocks, and hands them to nobody. MDTS is no bound, for none transfer. */
export const verify: IoHandler = {
  prepare(command) {
    const status = range.read(command);
    if (status !== Status.success) return status;
    command.scratchBytes = Math.min(range.bytes, VERIFY_BYTES);
    return Status.success;
  },
  next(command) {
    if (range.read(command) !== Status.success) return false;
    const done = command.step * VERIFY_BYTES;
    if (done >= range.bytes) return false;
    const length = Math.min(VERIFY_BYTES, range.bytes - done);
    const bytes = command.scratch?.subarray(0, length);
    return command.request('read', range.offset + done, length, bytes, false);
  },
};

/**
 * Write Zeroes, §6.17. Deallocate (DEAC) or not, the blocks read as zeros after it, and the storage
 * gives their room back where it can.
 */
export const writeZeroes: IoHandler = {
  prepare(command) {
    const status = range.read(command);
    return status === Status.success ? writable(command) : status;
  },
  next(command, around) {
    if (command.step === 0) {
      if (range.read(command) !== Status.success) return false;
      return command.request('write-zeroes', range.offset, range.bytes, undefined, false);
    }
    if (command.step > 1 || (around.writeCache && !forcesUnitAccess(command))) return false;
    return command.request('flush', 0, 0, undefined, false);
  },
};

/** NSID of all namespaces. */
export const BROADCAST = 0xffff_ffff;

/**
 * Flush, §6.8, of one namespace or of all: Identify's VWC says that both are done. With the write
 * cache off nothing is left to flush, but what was written before it went off.
 */
export const flush: IoHandler = {
  prepare: () => Status.success,
  next(command, around: IoSurroundings) {
    if (command.gate !== undefined) {
      return command.step === 0 && command.request('flush', 0, 0, undefined, false);
    }
    return command.step < around.gates.length && command.request('flush', 0, 0, undefined, false);
  },
};
