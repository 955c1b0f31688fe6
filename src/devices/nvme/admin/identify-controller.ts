import { SGL_SUPPORT } from '../data-pointer/sgl.ts';
import type { AdminHost } from './admin-host.ts';
import {
  ABORTS_MAX,
  CRITICAL_TEMPERATURE,
  ERROR_LOG_ENTRIES,
  EVENT_REQUESTS_MAX,
  VERSION,
  WARNING_TEMPERATURE,
} from './capabilities.ts';
import { FIRMWARE_REVISION } from './firmware.ts';
import { ascii, structure, u8, u16, u24, u32, u128 } from './structure.ts';

export const MODEL_NUMBER = 'sealbus NVMe';

/** Whose PCI function it is. */
export interface PciVendor {
  readonly vendor: number;
  readonly subsystemVendor: number;
}

/**
 * Identify Controller data structure, NVMe 1.4 §5.15.2.2, Figure 247. There is one power state (NPSS
 * 0), of which the descriptor at byte 2048 reports neither power nor latencies: it is all zeros.
 */
const identifyController = structure(4096, {
  vid: u16(0),
  ssvid: u16(2),
  sn: ascii(4, 20),
  mn: ascii(24, 40),
  fr: ascii(64, 8),
  rab: u8(72),
  ieee: u24(73),
  cmic: u8(76),
  mdts: u8(77),
  cntlid: u16(78),
  ver: u32(80),
  rtd3r: u32(84),
  rtd3e: u32(88),
  oaes: u32(92),
  ctratt: u32(96),
  cntrltype: u8(111),
  oacs: u16(256),
  acl: u8(258),
  aerl: u8(259),
  frmw: u8(260),
  lpa: u8(261),
  elpe: u8(262),
  npss: u8(263),
  avscc: u8(264),
  apsta: u8(265),
  wctemp: u16(266),
  cctemp: u16(268),
  tnvmcap: u128(280),
  unvmcap: u128(296),
  kas: u16(320),
  sanicap: u32(328),
  sqes: u8(512),
  cqes: u8(513),
  maxcmd: u16(514),
  nn: u32(516),
  oncs: u16(520),
  fuses: u16(522),
  fna: u8(524),
  vwc: u8(525),
  awun: u16(526),
  awupf: u16(528),
  nvscc: u8(530),
  nwpc: u8(531),
  acwu: u16(532),
  sgls: u32(536),
  mnan: u32(540),
  subnqn: ascii(768, 256, '\0'),
});

const OACS = { format: 1 << 1, doorbellBufferConfig: 1 << 8 };
const OAES = { namespaceAttributes: 1 << 8 };
const LPA = { commandEffects: 1 << 1, extendedData: 1 << 2 };
const ONCS = {
  compare: 1 << 0,
  datasetManagement: 1 << 2,
  writeZeroes: 1 << 3,
  saveAndSelect: 1 << 4,
  timestamp: 1 << 6,
  verify: 1 << 7,
};
/** Bits 2:1 11b: a Flush of NSID FFFFFFFFh flushes all namespaces. */
const VWC = { present: 1 << 0, flushesAll: 3 << 1 };
const FRMW = { slot1ReadOnly: 1 << 0, oneSlot: 1 << 1 };
const NWPC = { writeProtect: 1 << 0 };
const IO_CONTROLLER = 1;
/** Bit 1: the subsystem has several controllers; bit 2: this one is a virtual function's. */
const CMIC = { only: 0, primary: 1 << 1, secondary: (1 << 1) | (1 << 2) };

/** CAP.MPSMIN as bytes: the unit of MDTS. */
const PAGE_BYTES = 4096;

/** QEMU's own: locally administered, as no one is assigned to sealbus. */
const IEEE_OUI = 0x52_54_00;

/** Microseconds that a shutdown may take: the files are flushed. Linux waits that long, not 5 s. */
const SHUTDOWN_MICROSECONDS = 30_000_000;

/** Log2 of 64-byte submission and 16-byte completion queue entries: required, and largest. */
const SUBMISSION_ENTRY = 0x66;
const COMPLETION_ENTRY = 0x44;

/** The data of Identify with CNS 01h. */
export function identifyControllerData(host: AdminHost, pci: PciVendor): Uint8Array<ArrayBuffer> {
  const { namespaces, place } = host;
  // Of the subsystem, or not told: what one of several controllers has is less, what all have no VM's business.
  const capacity =
    place.role === 'only'
      ? namespaces.reduce((sum, { blocks, blockBytes }) => sum + blocks * blockBytes, 0)
      : 0;
  return identifyController.write({
    vid: pci.vendor,
    ssvid: pci.subsystemVendor,
    sn: host.serialNumber,
    mn: MODEL_NUMBER,
    fr: FIRMWARE_REVISION,
    ieee: IEEE_OUI,
    mdts: Math.log2(host.transferBytesMax / PAGE_BYTES),
    cmic: CMIC[place.role],
    cntlid: place.controllerId,
    ver: VERSION,
    rtd3e: SHUTDOWN_MICROSECONDS,
    oaes: OAES.namespaceAttributes,
    cntrltype: IO_CONTROLLER,
    oacs: OACS.format | (host.shadowDoorbells ? OACS.doorbellBufferConfig : 0),
    acl: ABORTS_MAX - 1,
    aerl: EVENT_REQUESTS_MAX - 1,
    frmw: FRMW.oneSlot | FRMW.slot1ReadOnly,
    lpa: LPA.commandEffects | LPA.extendedData,
    elpe: ERROR_LOG_ENTRIES - 1,
    wctemp: WARNING_TEMPERATURE,
    cctemp: CRITICAL_TEMPERATURE,
    tnvmcap: capacity,
    sqes: SUBMISSION_ENTRY,
    cqes: COMPLETION_ENTRY,
    nn: host.nsidMax,
    oncs:
      ONCS.compare |
      ONCS.datasetManagement |
      ONCS.writeZeroes |
      ONCS.saveAndSelect |
      ONCS.timestamp |
      ONCS.verify,
    vwc: VWC.present | VWC.flushesAll,
    nwpc: NWPC.writeProtect,
    sgls: SGL_SUPPORT,
    subnqn: host.subsystemNqn,
  });
}
