import { FIRMWARE_REVISION } from '../firmware.ts';
import { ascii, list, structure, u8 } from '../structure.ts';

/** Firmware Slot Information (log 03h), NVMe 1.4 §5.14.1.3. */
const firmwareSlotLog = structure(512, {
  activeFirmware: u8(0),
  revisions: list(ascii(8, 8), 7),
});

/** One slot, which cannot be written: the package's version, active now and after a reset. */
export function firmwareSlotData(): Uint8Array<ArrayBuffer> {
  return firmwareSlotLog.write({ activeFirmware: 1, revisions: [FIRMWARE_REVISION] });
}
