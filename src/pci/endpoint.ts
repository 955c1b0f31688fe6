import type { Clock } from './clock.ts';
import type { CompletionPoint } from './completion.ts';
import type { DmaPort } from './dma-port.ts';
import type { RegisterDescription } from './register/description.ts';

/** Type 0 configuration header, PCI Local Bus 3.0 section 6.2. */
export interface PciIdentity {
  readonly vendor: number;
  readonly device: number;
  readonly subsystemVendor: number;
  readonly subsystem: number;
  /** 0 to 255. */
  readonly revision: number;
  /** 24 bits: base class, sub-class, programming interface. */
  readonly classCode: number;
}

/** One base address register: PCI Local Bus 3.0 section 6.2.5.1. */
export interface BarWindow {
  /** Bytes, a power of two; at least 16 for memory, 4 for I/O. */
  readonly size: number;
  readonly kind: 'memory' | 'io';
  /** A 64-bit BAR takes the next index too, which is then undefined. */
  readonly width: 32 | 64;
  readonly prefetchable: boolean;
}

/** A capability of the list at 0x34: its ID and its bytes, with the two header bytes in front. */
export interface PciCapability {
  readonly id: number;
  readonly bytes: Uint8Array;
  /** Of the same length: a bit is 1 where a guest's write reaches it. Absent: read-only. */
  readonly writable?: Uint8Array;
  /** For one that does more than hold its bits. */
  readonly handlers?: CapabilityHandlers;
}

/**
 * What happens beside storing, around a guest's access to configuration space that touches the
 * capability. `live` is all of its bytes, to be changed in place; the range is the part touched.
 */
export interface CapabilityHandlers {
  /** Before a guest's read. */
  refresh(live: Uint8Array, from: number, end: number): void;
  /** After a guest's write, once what may be written is stored. */
  written(live: Uint8Array, from: number, end: number): void;
}

/** What a reset came from; a function-level reset is PCIe base spec section 6.6.2. */
export type ResetCause = 'function-level' | 'device' | 'power-state' | 'connection-lost';

/** How interrupts leave a function; the transport implements it, the function calls it. */
export interface InterruptLink {
  /** What the guest has enabled now: at most one of them. */
  enabled(): 'none' | 'intx' | 'msi' | 'msi-x';
  /** Sends the message of an MSI or MSI-X vector; does nothing where it is not enabled. */
  message(vector: number): void;
  /** Drives INTA#: asserted until it is called again with false. */
  intx(asserted: boolean): void;
}

/** An access that the function does not model, as real hardware would have absorbed it. */
export interface UnmodelledAccess {
  readonly bar: number;
  readonly offset: number;
  /** Bytes. */
  readonly width: number;
  readonly direction: 'read' | 'write';
  readonly why: string;
}

/** The place that a function is plugged into, for what is done to a function from there. */
export interface PciPlace {
  /** Resets the function and its configuration space, as a reset that no driver asked for. */
  reset(cause: ResetCause): void;
  /**
   * Pulls the function out (false) or puts it back in. One that is out has no configuration space: reads
   * give all ones, writes do nothing. What its BARs do then is the function's own.
   */
  setPresent(present: boolean): void;
}

/** What a transport lends to a function while it is plugged in. */
export interface PciLink {
  readonly dma: DmaPort;
  readonly interrupts: InterruptLink;
  /** Where the function's completions pass; absent where nobody may stand in their way. */
  readonly completions?: CompletionPoint;
  /** Absent where the transport has no configuration space. */
  readonly place?: PciPlace;
  /** Called for each unmodelled access; the transport logs and bounds it. */
  unmodelled(access: UnmodelledAccess): void;
  /**
   * Called where the device's own code threw: a bug of the device, or a refused DMA that it did not
   * catch. The function has dealt with it already (PciFunction says how); the transport logs and
   * bounds it.
   */
  fault(error: Error): void;
  /**
   * The clock to go by in place of the function's own, for those who record when alarms ring, or say
   * when they are to. Absent: its own.
   */
  clock?(own: Clock): Clock;
}

/**
 * A PCI function as its transport sees it. Authors extend PciFunction, which implements this;
 * the vfio-user server and the tests' bench drive it.
 */
export interface PciEndpoint {
  readonly identity: PciIdentity;
  /** True where it has a PCI Express capability (4 KiB of configuration space), else 256 bytes. */
  readonly express: boolean;
  /** In the order of the list. */
  readonly capabilities: readonly PciCapability[];
  /** Six entries. */
  readonly bars: readonly (BarWindow | undefined)[];
  /** 0 for no INTx pin, else 1 (INTA#); and the vectors of MSI and MSI-X. */
  readonly interruptVectors: { readonly intx: 0 | 1; readonly msi: number; readonly msix: number };
  /**
   * Six entries: what is where in each BAR, by rising offset, for those who watch. Undefined where
   * there is no BAR or it has no registers; a function that cannot say has no such property.
   */
  readonly registerMap?: readonly (readonly RegisterDescription[] | undefined)[];

  /** Called once, before any access. */
  plug(link: PciLink): void;
  /**
   * An access inside the window: the caller has checked offset and length against the size. Any
   * length; 1, 2, 4 or 8 aligned bytes are one access, others are split as a bridge would.
   */
  readBar(bar: number, offset: number, into: Uint8Array): void;
  writeBar(bar: number, offset: number, from: Uint8Array): void;
  /** Back to the state after power-on; DMA and timers in flight must have no effect after it. */
  reset(cause: ResetCause): void;
  /**
   * Ends the function's time with one VM, once it has been pulled out there: a reset, and the end of all that it
   * still has under way. Answers the function for the next VM, which is who this one was and has nothing of
   * what happened to it: a new object, for one that is only reset keeps whatever its author has forgotten.
   * Absent: whoever moves it has to give a new one.
   */
  handOver?(): Promise<PciEndpoint>;
}
