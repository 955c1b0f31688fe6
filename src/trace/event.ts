/**
 * What a trace is made of: one event, one line of its NDJSON. Addresses and register values are
 * hexadecimal strings (`0x1f`), for 64 bits do not fit a JSON number; lengths are numbers of bytes.
 */
import type { DmaDirection, FaultReason } from '../pci/dma-port.ts';
import type { PciIdentity, ResetCause } from '../pci/endpoint.ts';
import type { RegisterDescription } from '../pci/register/description.ts';

export const TRACE_VERSION = 1;

/** What all events have. */
interface Timed {
  /** Nanoseconds since the trace began. */
  readonly t: number;
}

/** Of one function, by its requester ID as `00:05.0`. */
interface OfFunction extends Timed {
  readonly rid: string;
}

/** The first line. */
export interface TraceHeader {
  readonly kind: 'trace';
  readonly version: typeof TRACE_VERSION;
  /** Milliseconds since the epoch at which `t` was 0. */
  readonly epochMs: number;
  /** How guest memory is held. */
  readonly memory: 'sealed' | 'plain';
  /** How many bytes of each DMA the trace holds: 0 where nobody asked, Infinity is written as null. */
  readonly dataBytesMax: number | null;
}

/** The last line. A trace without it was cut short. */
export interface TraceEnd extends Timed {
  readonly kind: 'end';
  /** Events before this line, without the header. */
  readonly events: number;
  /** Events that found no room and are not there. */
  readonly dropped: number;
}

/** A function is plugged in: who it is and what its registers are called. */
export interface FunctionEvent extends OfFunction {
  readonly kind: 'function';
  /** The name of its class. */
  readonly name: string;
  readonly identity: PciIdentity;
  readonly interrupts: { readonly intx: 0 | 1; readonly msi: number; readonly msix: number };
  readonly bars: readonly TracedBar[];
}

export interface TracedBar {
  readonly bar: number;
  readonly size: number;
  readonly registers: readonly TracedRegister[];
}

export type TracedRegister = RegisterDescription;

/** What comes to a function from outside. */
interface Input extends OfFunction {
  /**
   * It came in the same turn of the event loop as the function's access before it, as posted writes
   * may: nothing that the function awaited went on between the two.
   */
  readonly sameTurn?: true;
}

/** The guest read or wrote a BAR. */
export interface RegisterEvent extends Input {
  readonly kind: 'register';
  readonly direction: 'read' | 'write';
  readonly bar: number;
  readonly offset: number;
  /** Bytes. */
  readonly width: number;
  /** Of up to 8 bytes; longer accesses have their bytes as hexadecimal digits, lowest address first. */
  readonly value: string;
  /**
   * As the device's definition names it: an array's element as `name[3]`, a place in memory as
   * `name+0x10`, several as `one, two`; absent where nothing is there.
   */
  readonly register?: string;
  /** The fields of that one register that lie whole in this value. */
  readonly fields?: Readonly<Record<string, number>>;
  /** Nanoseconds until the device had answered. `t` is when it was asked. */
  readonly took?: number;
}

/** A DMA that was done. */
export interface DmaEvent extends OfFunction {
  readonly kind: 'dma';
  readonly direction: DmaDirection;
  readonly iova: string;
  readonly bytes: number;
  readonly pieces: readonly TracedPiece[];
  /** Its first bytes in the clear, as hexadecimal digits: only where asked for. */
  readonly data?: string;
}

export interface TracedPiece {
  readonly gpa: string;
  readonly bytes: number;
  /** Undefined for an access in the clear. */
  readonly slot?: number;
  /** It went encrypted, under that slot; false where memory is plain, and for an access in the clear. */
  readonly private: boolean;
  /** It met pages of the other kind, shared or private, and its data is noise to one side. */
  readonly crosses?: true;
}

/** A DMA that was refused. */
export interface FaultEvent extends OfFunction {
  readonly kind: 'fault';
  readonly direction: DmaDirection;
  readonly iova: string;
  readonly bytes: number;
  readonly reason: FaultReason;
  readonly slot?: number;
  /** Of the newest key that the slot has or had. */
  readonly generation?: number;
}

/** The function raised an interrupt, or lowered its pin. */
export interface InterruptEvent extends OfFunction {
  readonly kind: 'interrupt';
  readonly how: 'intx' | 'msi' | 'msi-x';
  /** Of a message. */
  readonly vector?: number;
  /** Of INTA#. */
  readonly asserted?: boolean;
}

/** What the guest has enabled, told where a function's question was answered otherwise than before. */
export interface InterruptModeEvent extends OfFunction {
  readonly kind: 'interrupt-mode';
  readonly mode: 'none' | 'intx' | 'msi' | 'msi-x';
}

export interface ResetEvent extends Input {
  readonly kind: 'reset';
  readonly cause: ResetCause;
}

/** An alarm of the function's clock rang. Only in traces that hold all data, for a replay. */
export interface AlarmEvent extends OfFunction {
  readonly kind: 'alarm';
  /** Alarms are counted as they are set, from 1 on. */
  readonly alarm: number;
}

export interface UnmodelledEvent extends OfFunction {
  readonly kind: 'unmodelled';
  readonly direction: 'read' | 'write';
  readonly bar: number;
  readonly offset: number;
  readonly width: number;
  readonly why: string;
}

/** A request of the guest's IOMMU driver, and how it was answered. */
export interface IommuEvent extends Timed {
  readonly kind: 'iommu';
  readonly command: 'attach' | 'detach' | 'map' | 'unmap' | 'probe';
  /** As virtio 1.2 §5.13.6 numbers it; 0 is OK. */
  readonly status: number;
  readonly domain?: number;
  /** Requester ID of the endpoint. */
  readonly endpoint?: string;
  /** First and last address. */
  readonly start?: string;
  readonly end?: string;
  /** Guest-physical address of the first. */
  readonly target?: string;
  /** Of a MAP: r, w, m (MMIO). */
  readonly rights?: string;
}

/** The device's own code threw: a bug of it, or a refused DMA that it did not catch. */
export interface DeviceErrorEvent extends OfFunction {
  readonly kind: 'device-error';
  readonly message: string;
}

/** A fault on demand struck. */
export interface InjectedEvent extends OfFunction {
  readonly kind: 'injected';
  /** As the catalogue names it: `interrupt.lose`. */
  readonly fault: string;
  readonly detail: string;
}

export type TraceEvent =
  | FunctionEvent
  | RegisterEvent
  | DmaEvent
  | FaultEvent
  | InterruptEvent
  | InterruptModeEvent
  | ResetEvent
  | AlarmEvent
  | UnmodelledEvent
  | IommuEvent
  | DeviceErrorEvent
  | InjectedEvent;

export type TraceLine = TraceHeader | TraceEvent | TraceEnd;
