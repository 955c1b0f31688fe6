import { datasetManagement } from './dataset-management.ts';
import type { IoHandler } from './io-handler.ts';
import { compare, flush, read, verify, write, writeZeroes } from './read-write.ts';

/** Opcodes of the NVM command set: NVMe 1.4 Figure 346. */
export const IoOpcode = {
  flush: 0x00,
  write: 0x01,
  read: 0x02,
  compare: 0x05,
  writeZeroes: 0x08,
  datasetManagement: 0x09,
  verify: 0x0c,
} as const;

/** By opcode; undefined: Invalid Command Opcode. */
export const ioHandlers: readonly (IoHandler | undefined)[] = Array.from(
  { length: 256 },
  (_, opcode) => {
    switch (opcode) {
      case IoOpcode.flush:
        return flush;
      case IoOpcode.write:
        return write;
      case IoOpcode.read:
        return read;
      case IoOpcode.compare:
        return compare;
      case IoOpcode.writeZeroes:
        return writeZeroes;
      case IoOpcode.datasetManagement:
        return datasetManagement;
      case IoOpcode.verify:
        return verify;
      default:
        return undefined;
    }
  },
);
