import { type AsyncEvents, EventConfiguration, EventType, SmartEvent } from '../async-events.ts';
import { CRITICAL_TEMPERATURE, LogPage, WARNING_TEMPERATURE } from '../capabilities.ts';
import { structure, u8, u16, u32, u128 } from '../structure.ts';

/** SMART / Health Information, NVMe 1.4 §5.14.1.2. */
const healthLog = structure(512, {
  criticalWarning: u8(0),
  compositeTemperature: u16(1),
  availableSpare: u8(3),
  availableSpareThreshold: u8(4),
  percentageUsed: u8(5),
  enduranceGroupCriticalWarning: u8(6),
  dataUnitsRead: u128(32),
  dataUnitsWritten: u128(48),
  hostReadCommands: u128(64),
  hostWriteCommands: u128(80),
  controllerBusyTime: u128(96),
  powerCycles: u128(112),
  powerOnHours: u128(128),
  unsafeShutdowns: u128(144),
  mediaErrors: u128(160),
  errorLogEntries: u128(176),
  warningTemperatureMinutes: u32(192),
  criticalTemperatureMinutes: u32(196),
});

/** Bits of the critical warning. */
export const CriticalWarning = {
  spare: 1 << 0,
  temperature: 1 << 1,
  reliability: 1 << 2,
  readOnly: 1 << 3,
} as const;

/** What the host is told where a warning comes up. */
const EVENT_OF_WARNING: readonly (readonly [warning: number, info: number])[] = [
  [CriticalWarning.reliability, SmartEvent.reliability],
  [CriticalWarning.readOnly, SmartEvent.reliability],
  [CriticalWarning.temperature, SmartEvent.temperature],
  [CriticalWarning.spare, SmartEvent.spare],
];

/** A data unit: a thousand times 512 bytes, rounded up. */
const DATA_UNIT_BYTES = 512_000;
const MS_PER_MINUTE = 60_000;
const MS_PER_HOUR = 3_600_000;

/** What the SMART / Health Information log (02h) tells; the core counts (NVMe 1.4 §5.14.1.2). */
export class Health {
  /** Bytes of user data that reads, compares and verifies took; a number, for the I/O path. */
  bytesRead = 0;
  bytesWritten = 0;
  readCommands = 0;
  writeCommands = 0;
  /** Milliseconds that I/O commands were outstanding. */
  busyMs = 0;
  powerCycles = 1;
  /** Power was lost, or the function went, with CSTS.SHST not at "complete". */
  unsafeShutdowns = 0;
  mediaErrors = 0;
  readonly #events: AsyncEvents;
  /** Kelvin; a disk of software is always as warm. */
  readonly #temperature = 313;
  #warnings = 0;
  #overThreshold = WARNING_TEMPERATURE;
  #underThreshold = 0;

  constructor(events: AsyncEvents) {
    this.#events = events;
  }

  /** Composite temperature, kelvin. */
  get temperature(): number {
    return this.#temperature;
  }

  get criticalWarning(): number {
    return this.#warnings;
  }

  /** Temperature Threshold (feature 04h), kelvin. */
  get thresholds(): { readonly over: number; readonly under: number } {
    return { over: this.#overThreshold, under: this.#underThreshold };
  }

  /** Sets or clears the temperature warning: §5.21.1.4, both bounds included. */
  setThreshold(which: 'over' | 'under', kelvin: number): void {
    if (which === 'over') this.#overThreshold = kelvin;
    else this.#underThreshold = kelvin;
    const crossed =
      this.#temperature >= this.#overThreshold || this.#temperature <= this.#underThreshold;
    this.warn(CriticalWarning.temperature, crossed);
  }

  /** Sets or clears bits of the critical warning, and tells the host of those that are new. */
  warn(warnings: number, present = true): void {
    const fresh = present ? warnings & ~this.#warnings : 0;
    this.#warnings = present ? this.#warnings | warnings : this.#warnings & ~warnings;
    this.#tell(fresh);
  }

  /** Tells the host of those warnings that are there already, as it has enabled them only now. */
  announce(newlyEnabled: number): void {
    this.#tell(this.#warnings & newlyEnabled);
  }

  /** A controller level reset: thresholds at their defaults. Counts and warnings stay. */
  reset(): void {
    this.setThreshold('over', WARNING_TEMPERATURE);
    this.setThreshold('under', 0);
  }

  /** The whole log page. */
  data(uptimeMs: number, errors: bigint): Uint8Array<ArrayBuffer> {
    const minutesFrom = (kelvin: number) =>
      this.#temperature >= kelvin ? Math.floor(uptimeMs / MS_PER_MINUTE) : 0;
    return healthLog.write({
      criticalWarning: this.#warnings,
      compositeTemperature: this.#temperature,
      availableSpare: 100,
      availableSpareThreshold: 10,
      dataUnitsRead: Math.ceil(this.bytesRead / DATA_UNIT_BYTES),
      dataUnitsWritten: Math.ceil(this.bytesWritten / DATA_UNIT_BYTES),
      hostReadCommands: this.readCommands,
      hostWriteCommands: this.writeCommands,
      controllerBusyTime: Math.floor(this.busyMs / MS_PER_MINUTE),
      powerCycles: this.powerCycles,
      powerOnHours: Math.floor(uptimeMs / MS_PER_HOUR),
      unsafeShutdowns: this.unsafeShutdowns,
      mediaErrors: this.mediaErrors,
      errorLogEntries: errors,
      warningTemperatureMinutes: minutesFrom(WARNING_TEMPERATURE),
      criticalTemperatureMinutes: minutesFrom(CRITICAL_TEMPERATURE),
    });
  }

  #tell(warnings: number): void {
    const enabled = warnings & this.#events.configuration & EventConfiguration.criticalWarnings;
    for (const [warning, info] of EVENT_OF_WARNING) {
      if ((enabled & warning) !== 0) this.#events.raise(EventType.smart, info, LogPage.health);
    }
  }
}
