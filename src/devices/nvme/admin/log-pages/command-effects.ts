import { IoOpcode } from '../../io/io-opcode.ts';
import { AdminOpcode } from '../capabilities.ts';
import { list, structure, u32 } from '../structure.ts';

/** Commands Supported and Effects (log 05h), NVMe 1.4 §5.14.1.5: by opcode. */
const commandEffectsLog = structure(4096, {
  adminCommands: list(u32(0), 256),
  ioCommands: list(u32(1024), 256),
});

const SUPPORTED = 1 << 0;
const CHANGES_BLOCKS = 1 << 1;
const CHANGES_NAMESPACE = 1 << 2;
/** CSE 001b: to be sent with no other command to the same namespace outstanding. */
const ALONE_IN_NAMESPACE = 1 << 16;

export function commandEffectsData(shadowDoorbells: boolean): Uint8Array<ArrayBuffer> {
  const adminCommands = new Array<number>(256).fill(0);
  for (const opcode of Object.values(AdminOpcode)) adminCommands[opcode] = SUPPORTED;
  if (!shadowDoorbells) adminCommands[AdminOpcode.doorbellBufferConfig] = 0;
  // Namespace Write Protection Config (84h) changes NSATTR.
  adminCommands[AdminOpcode.setFeatures] = SUPPORTED | CHANGES_NAMESPACE;
  adminCommands[AdminOpcode.formatNvm] =
    SUPPORTED | CHANGES_BLOCKS | CHANGES_NAMESPACE | ALONE_IN_NAMESPACE;

  const ioCommands = new Array<number>(256).fill(0);
  for (const opcode of Object.values(IoOpcode)) ioCommands[opcode] = SUPPORTED;
  for (const name of ['write', 'writeZeroes', 'datasetManagement'] as const) {
    ioCommands[IoOpcode[name]] = SUPPORTED | CHANGES_BLOCKS;
  }
  return commandEffectsLog.write({ adminCommands, ioCommands });
}
