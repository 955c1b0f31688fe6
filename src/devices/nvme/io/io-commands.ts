import { datasetManagement } from './dataset-management.ts';
import type { IoHandler } from './io-handler.ts';
import { IoOpcode } from './io-opcode.ts';
import { compare, flush, read, verify, write, writeZeroes } from './read-write.ts';

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
