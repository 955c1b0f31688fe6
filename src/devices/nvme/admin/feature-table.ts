import type { Command } from '../command.ts';
import type { Namespace } from '../namespace.ts';
import { type Outcome, Status, SUCCESS } from '../status.ts';
import type { AdminAnswer, AdminHost } from './admin-host.ts';
import { type AsyncEvents, EventConfiguration } from './async-events.ts';
import { WARNING_TEMPERATURE } from './capabilities.ts';
import type { Features } from './features.ts';
import type { Health } from './log-pages/health.ts';
import { raw, structure, u8 } from './structure.ts';
import { flushNamespaces, WriteProtection } from './write-protection.ts';

/** A feature that Get and Set Features name by its identifier. Dword 11 is the command's argument. */
export interface Feature {
  /** Its value belongs to a namespace; else to the controller. */
  readonly namespaceSpecific?: true;
  /** Dword 0 of Get Features, or why there is none. */
  get(which: 'current' | 'default', command: Command, namespace: Namespace | undefined): Got;
  /** @param namespaces those that the command names; none where the controller has the value. */
  set(command: Command, namespaces: readonly Namespace[]): AdminAnswer;
}

type Got = { readonly value: number } | Outcome;

/** What is done where features reach over their own value. */
export interface FeatureEffects {
  readonly host: AdminHost;
  readonly features: Features;
  readonly events: AsyncEvents;
  readonly health: Health;
  /** Events that can be told now because bits of the configuration were set: §5.21.1.11. */
  announce(newlyEnabled: number): void;
  namespaceChanged(nsid: number): void;
}

const INVALID_FIELD: Outcome = Object.freeze({ status: Status.invalidField });

/** Timestamp data structure, NVMe 1.4 §5.21.1.14. */
const timestampData = structure(8, { milliseconds: raw(0, 6), attributes: u8(6) });
/** Timestamp Origin, bits 3:1: it was set by Set Features. */
const ORIGIN_HOST = 1 << 1;

/** The features there are, by identifier: NVMe 1.4 §5.21.1. */
export function featureTable(effects: FeatureEffects): ReadonlyMap<number, Feature> {
  const { host, features, events, health } = effects;
  return new Map<number, Feature>([
    [0x01, arbitration(features)],
    [0x02, powerManagement(features)],
    [0x04, temperatureThreshold(health)],
    [0x05, errorRecovery(features)],
    [0x06, volatileWriteCache(features, host)],
    [0x07, numberOfQueues(features, host)],
    [0x08, interruptCoalescing(features)],
    [0x09, interruptVectorConfiguration(features, host)],
    [0x0a, writeAtomicityNormal(features)],
    [0x0b, asyncEventConfiguration(events, effects)],
    [0x0e, timestamp(features, host)],
    [0x84, new WriteProtection((nsid) => effects.namespaceChanged(nsid))],
  ]);
}

/** §5.21.1.1. */
function arbitration(features: Features): Feature {
  const initial = features.arbitration;
  return {
    get: (which) => ({ value: which === 'default' ? initial : features.arbitration }),
    set(command) {
      // Bits 7:3 are reserved.
      features.arbitration = (command.dword(11) & 0xffff_ff07) >>> 0;
      return SUCCESS;
    },
  };
}

/** §5.21.1.2: power state in 4:0, workload hint in 7:5. */
function powerManagement(features: Features): Feature {
  return {
    get: (which) => ({ value: which === 'default' ? 0 : features.powerManagement }),
    set(command) {
      const value = command.dword(11) & 0xff;
      if ((value & 0x1f) !== 0) return INVALID_FIELD;
      features.powerManagement = value;
      return SUCCESS;
    },
  };
}

/** §5.21.1.4: kelvin in 15:0, sensor in 19:16 (0 is the composite temperature), type in 21:20. */
function temperatureThreshold(health: Health): Feature {
  const ALL_SENSORS = 0xf;
  const typeOf = (command: Command) => (['over', 'under'] as const)[(command.dword(11) >>> 20) & 3];
  const sensorOf = (command: Command) => (command.dword(11) >>> 16) & 0xf;
  return {
    get(which, command) {
      const type = typeOf(command);
      if (type === undefined || sensorOf(command) !== 0) return INVALID_FIELD;
      const initial = { over: WARNING_TEMPERATURE, under: 0 };
      return { value: (which === 'default' ? initial : health.thresholds)[type] };
    },
    set(command) {
      const type = typeOf(command);
      const sensor = sensorOf(command);
      if (type === undefined || (sensor !== 0 && sensor !== ALL_SENSORS)) return INVALID_FIELD;
      health.setThreshold(type, command.dword(11) & 0xffff);
      return SUCCESS;
    },
  };
}

/** §5.21.1.5: time limit in 15:0; the error of deallocated blocks (bit 16) is not offered. */
function errorRecovery(features: Features): Feature {
  const DEALLOCATED_BLOCK_ERROR = 1 << 16;
  return {
    namespaceSpecific: true,
    get: (which, _command, namespace) => ({
      value: which === 'default' ? 0 : features.recoveryLimit(namespace!.nsid),
    }),
    set(command, namespaces) {
      if ((command.dword(11) & DEALLOCATED_BLOCK_ERROR) !== 0) return INVALID_FIELD;
      const limit = command.dword(11) & 0xffff;
      for (const { nsid } of namespaces) features.setRecoveryLimit(nsid, limit);
      return SUCCESS;
    },
  };
}

/**
 * §5.21.1.6. What the cache held is on the disks before the command that disables it is done; where
 * a disk fails, the cache stays enabled.
 */
function volatileWriteCache(features: Features, host: AdminHost): Feature {
  let commands = 0;
  return {
    get: (which) => ({ value: which === 'default' || features.writeCache ? 1 : 0 }),
    set(command) {
      const number = ++commands;
      features.writeCache = (command.dword(11) & 1) !== 0;
      if (features.writeCache) return SUCCESS;
      return flushNamespaces(host.namespaces).then((outcome) => {
        // A later command has the last word.
        if (outcome.status !== Status.success && number === commands) features.writeCache = true;
        return outcome;
      });
    },
  };
}

/** §5.21.1.7: submission queues in 15:0 and completion queues in 31:16, counted from 0. */
function numberOfQueues(features: Features, host: AdminHost): Feature {
  const pack = (submission: number, completion: number) =>
    (((completion - 1) << 16) | (submission - 1)) >>> 0;
  return {
    get: (which) => ({
      value:
        which === 'default'
          ? pack(host.ioQueuesMax, host.ioQueuesMax)
          : pack(features.ioSubmissionQueues, features.ioCompletionQueues),
    }),
    set(command) {
      if (features.ioQueuesCreated) return { status: Status.commandSequenceError };
      const submission = command.dword(11) & 0xffff;
      const completion = command.dword(11) >>> 16;
      if (submission === 0xffff || completion === 0xffff) return INVALID_FIELD;
      features.ioSubmissionQueues = Math.min(submission + 1, host.ioQueuesMax);
      features.ioCompletionQueues = Math.min(completion + 1, host.ioQueuesMax);
      return {
        status: Status.success,
        dword0: pack(features.ioSubmissionQueues, features.ioCompletionQueues),
      };
    },
  };
}

/** §5.21.1.8: completions in 7:0, counted from 0; time in 15:8, in units of 100 µs. */
function interruptCoalescing(features: Features): Feature {
  const TIME_MICROSECONDS = 100;
  return {
    get(which) {
      const { coalescingMicroseconds: time, coalescingThreshold: threshold } = features;
      return {
        value: which === 'default' ? 0 : ((time / TIME_MICROSECONDS) << 8) | (threshold - 1),
      };
    },
    set(command) {
      features.coalescingThreshold = (command.dword(11) & 0xff) + 1;
      features.coalescingMicroseconds = ((command.dword(11) >>> 8) & 0xff) * TIME_MICROSECONDS;
      return SUCCESS;
    },
  };
}

/** §5.21.1.9: vector in 15:0, coalescing disable in bit 16. */
function interruptVectorConfiguration(features: Features, host: AdminHost): Feature {
  const DISABLE = 1 << 16;
  return {
    get(which, command) {
      const vector = command.dword(11) & 0xffff;
      if (vector >= host.msixVectors) return INVALID_FIELD;
      const disabled = which === 'current' && features.coalescingDisabled(vector);
      return { value: vector | (disabled ? DISABLE : 0) };
    },
    set(command) {
      const vector = command.dword(11) & 0xffff;
      if (vector >= host.msixVectors) return INVALID_FIELD;
      features.setCoalescingDisabled(vector, (command.dword(11) & DISABLE) !== 0);
      return SUCCESS;
    },
  };
}

/** §5.21.1.10. */
function writeAtomicityNormal(features: Features): Feature {
  return {
    get: (which) => ({ value: which === 'current' && features.normalAtomicityDisabled ? 1 : 0 }),
    set(command) {
      features.normalAtomicityDisabled = (command.dword(11) & 1) !== 0;
      return SUCCESS;
    },
  };
}

/** §5.21.1.11: events that OAES does not name cannot be enabled; their bits read 0. */
function asyncEventConfiguration(events: AsyncEvents, effects: FeatureEffects): Feature {
  const offered = EventConfiguration.criticalWarnings | EventConfiguration.namespaceAttributes;
  return {
    get: (which) => ({ value: which === 'default' ? 0 : events.configuration }),
    set(command) {
      const before = events.configuration;
      events.configuration = command.dword(11) & offered;
      effects.announce(events.configuration & ~before);
      return SUCCESS;
    },
  };
}

/** §5.21.1.14. The default is a clock that no one has set, at 0. */
function timestamp(features: Features, host: AdminHost): Feature {
  return {
    get(which, command) {
      const { milliseconds, fromHost } =
        which === 'default' ? { milliseconds: 0n, fromHost: false } : features.timestamp;
      const wide = new Uint8Array(8);
      new DataView(wide.buffer).setBigUint64(0, milliseconds, true);
      const data = timestampData.write({
        milliseconds: wide.subarray(0, 6),
        attributes: fromHost ? ORIGIN_HOST : 0,
      });
      return { status: host.sendData(command, data) };
    },
    set(command) {
      const data = host.receiveData(command, timestampData.bytes);
      if (typeof data === 'number') return { status: data };
      const view = new DataView(data.buffer, data.byteOffset, data.length);
      features.setTimestamp(view.getBigUint64(0, true));
      return SUCCESS;
    },
  };
}
