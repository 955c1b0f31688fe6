import {
  bit,
  bits,
  memoryBar,
  reg32,
  reg64,
  regArray,
  ro,
  ro32,
  ro64,
  w1c,
  wo32,
} from '../../pci/index.ts';

/** Controller registers: NVMe 1.4 §3.1, on the PCI Express transport's BAR0. */

/** At least 16 KiB, for bits 13:4 of the BAR are zero (§2.1.10). */
const BAR_BYTES = 16 * 1024;
const VERSION_1_4_0 = 0x0001_0400;
const DOORBELLS = 0x1000;
/** A page of them: 512 pairs, far more than queues, so that a wild one is heard of. */
const DOORBELL_COUNT = 1024;

/** Of an I/O queue (CAP.MQES), counted from 1. */
export const QUEUE_ENTRIES_MAX = 1024;
/** CAP.MPSMAX: 64 KiB. */
export const PAGE_SHIFT_MAX = 4;
/** CAP.TO, units of 500 ms: how long a host waits for CSTS.RDY, while old I/O comes to its end. */
const READY_TIMEOUT = 60;

/** CAP (§3.1.1): queues physically contiguous, round robin, stride 4 bytes. */
const CAPABILITIES =
  BigInt(QUEUE_ENTRIES_MAX - 1) |
  (1n << 16n) |
  (BigInt(READY_TIMEOUT) << 24n) |
  (1n << 37n) |
  (BigInt(PAGE_SHIFT_MAX) << 52n);

/** CAP.NSSRS: NSSR is there, and resets the subsystem. */
const HAS_SUBSYSTEM_RESET = 1n << 36n;

/** Written to NSSR: "NVMe". */
export const SUBSYSTEM_RESET = 0x4e56_4d65;

/** CSTS.SHST (§3.1.6). */
export const SHUTDOWN = { none: 0, occurring: 1, complete: 2 } as const;

/** What the registers set off. */
export interface ControllerActions {
  /** Interrupt mask bits that a host sets (INTMS) or clears (INTMC). */
  mask(bits: number): void;
  unmask(bits: number): void;
  /** CC was written; `enabled` is its EN before. */
  configured(enabled: boolean, shutdown: number): void;
  /** Undefined where the controller has no such reset (CAP.NSSRS 0). */
  readonly subsystemReset: (() => void) | undefined;
  /** @param index of the doorbell: 2 × queue, and 1 more for a completion queue's head. */
  doorbell(index: number, value: number): void;
}

export function controllerRegisters(act: ControllerActions) {
  return memoryBar(
    BAR_BYTES,
    {
      capabilities: ro64(0x00, {
        reset: CAPABILITIES | (act.subsystemReset === undefined ? 0n : HAS_SUBSYSTEM_RESET),
      }),
      version: ro32(0x08, { reset: VERSION_1_4_0 }),
      /** Both read as the mask; device code keeps them alike. */
      interruptMaskSet: reg32(0x0c, { onWrite: (now) => act.mask(now) }),
      interruptMaskClear: reg32(0x10, { onWrite: (now) => act.unmask(now) }),
      configuration: reg32(
        0x14,
        {
          enable: bit(0),
          commandSet: bits(6, 4),
          /** Host page size is 2^(12 + this). */
          pageShift: bits(10, 7),
          arbitration: bits(13, 11),
          shutdown: bits(15, 14),
          /** Of an I/O submission queue entry, a power of two of bytes. */
          submissionEntry: bits(19, 16),
          completionEntry: bits(23, 20),
        },
        { onWrite: (_now, before) => act.configured(before.enable, before.shutdown) },
      ),
      status: reg32(0x1c, {
        ready: ro(bit(0)),
        fatal: ro(bit(1)),
        shutdown: ro(bits(3, 2)),
        subsystemResetOccurred: w1c(bit(4)),
        processingPaused: ro(bit(5)),
      }),
      subsystemReset: wo32(0x20, {
        onWrite: (now) => {
          if (now === SUBSYSTEM_RESET) act.subsystemReset?.();
        },
      }),
      /** Entries, counted from 0. */
      adminQueues: reg32(0x24, { submission: bits(11, 0), completion: bits(27, 16) }),
      adminSubmissionBase: reg64(0x28, { mask: 0xffff_ffff_ffff_f000n }),
      adminCompletionBase: reg64(0x30, { mask: 0xffff_ffff_ffff_f000n }),
      // No controller memory buffer, no boot partitions, no persistent memory region: all zeros. So is
      // what is reserved up to 6Bh, where NVMe 2.0 has registers that nvme-cli shows.
      controllerMemory: regArray(13, ro32(0x38)),
      persistentMemory: regArray(7, ro32(0xe00)),
      doorbells: regArray(
        DOORBELL_COUNT,
        wo32(DOORBELLS, { onWrite: (now, _before, index) => act.doorbell(index, now) }),
      ),
    },
    { width: 64 },
  );
}

export type ControllerRegisters = ReturnType<typeof controllerRegisters>;
