/**
 * The configuration space that a client of the socket reads and writes: what src/pci lays out for
 * power-on, and the guest's writes since. Where a bit does more than hold its value (bus mastering,
 * resets), an event is told.
 */
import { CapabilityId } from '../pci/capability/capability.ts';
import { Command, configSpace, Header } from '../pci/config-space.ts';
import type { CapabilityHandlers, PciEndpoint } from '../pci/endpoint.ts';

const STATUS_INTERRUPT = 1 << 3;
const MSI_ENABLE = 1 << 0;
const MSIX_ENABLE = 1 << 15;
const POWER_STATE = 3;
const D3_HOT = 3;
const NO_SOFT_RESET = 1 << 3;
const FLR_CAPABLE = 1 << 28;
const INITIATE_FLR = 1 << 15;

export interface ConfigEvents {
  /** The bus-master bit changed. */
  busMaster(enabled: boolean): void;
  /** The guest wrote a function-level reset, or left D3hot; the callee resets, this space too. */
  reset(cause: 'function-level' | 'power-state'): void;
  /** The INTx disable bit changed. */
  intxDisable(): void;
}

/** A capability that acts on accesses, and where it lies. */
interface ActiveCapability {
  readonly at: number;
  readonly live: Uint8Array;
  readonly handlers: CapabilityHandlers;
}

export class LiveConfigSpace {
  readonly size: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #initial: Uint8Array;
  readonly #writable: Uint8Array;
  readonly #events: ConfigEvents;
  readonly #express: number | undefined;
  readonly #msi: number | undefined;
  readonly #msix: number | undefined;
  readonly #power: number | undefined;
  readonly #active: readonly ActiveCapability[];
  /** Bus mastering, as it was last told. */
  #toldMaster = false;

  /** @throws RangeError where the function's capabilities do not fit */
  constructor(endpoint: PciEndpoint, events: ConfigEvents) {
    const laid = configSpace(endpoint);
    this.size = laid.bytes.length;
    this.#initial = laid.bytes;
    this.#bytes = laid.bytes.slice();
    this.#view = new DataView(this.#bytes.buffer);
    this.#writable = laid.writable;
    this.#events = events;
    const offsetOf = (id: number) => {
      const index = endpoint.capabilities.findIndex((capability) => capability.id === id);
      return index === -1 ? undefined : laid.capabilityOffsets[index];
    };
    this.#express = offsetOf(CapabilityId.express);
    this.#msi = offsetOf(CapabilityId.msi);
    this.#msix = offsetOf(CapabilityId.msix);
    this.#power = offsetOf(CapabilityId.powerManagement);
    this.#active = endpoint.capabilities.flatMap(({ bytes, handlers }, index) => {
      const at = laid.capabilityOffsets[index];
      if (handlers === undefined || at === undefined) return [];
      return [{ at, live: this.#bytes.subarray(at, at + bytes.length), handlers }];
    });
  }

  get busMaster(): boolean {
    return (this.#view.getUint16(Header.command, true) & Command.busMaster) !== 0;
  }

  get intxDisabled(): boolean {
    return (this.#view.getUint16(Header.command, true) & Command.interruptDisable) !== 0;
  }

  get msiEnabled(): boolean {
    return (this.#word(this.#msi, 2) & MSI_ENABLE) !== 0;
  }

  get msixEnabled(): boolean {
    return (this.#word(this.#msix, 2) & MSIX_ENABLE) !== 0;
  }

  /** Interrupt Status of the status register: whether INTx is asserted inside the function. */
  setInterruptStatus(asserted: boolean): void {
    const status = this.#view.getUint16(Header.status, true) & ~STATUS_INTERRUPT;
    this.#view.setUint16(Header.status, status | (asserted ? STATUS_INTERRUPT : 0), true);
  }

  /** Copies `into.length` bytes at `offset`; the range is inside the space. */
  read(offset: number, into: Uint8Array): void {
    for (const { at, live, handlers } of this.#active) {
      const from = Math.max(offset - at, 0);
      const end = Math.min(offset + into.length - at, live.length);
      if (from < end) handlers.refresh(live, from, end);
    }
    for (let i = 0; i < into.length; i++) into[i] = this.#bytes[offset + i] as number;
  }

  /** Writes what may be written of `from` at `offset`, then tells what it meant. */
  write(offset: number, from: Uint8Array): void {
    const { intxDisabled } = this;
    const power = this.#word(this.#power, 4) & POWER_STATE;
    for (let i = 0; i < from.length; i++) {
      const mask = this.#writable[offset + i] as number;
      const kept = (this.#bytes[offset + i] as number) & ~mask;
      this.#bytes[offset + i] = kept | ((from[i] as number) & mask);
    }
    for (const { at, live, handlers } of this.#active) {
      const begin = Math.max(offset - at, 0);
      const end = Math.min(offset + from.length - at, live.length);
      if (begin < end) handlers.written(live, begin, end);
    }
    if (this.#takesFunctionReset()) {
      this.#events.reset('function-level');
      return;
    }
    const control = this.#word(this.#power, 4);
    if (power === D3_HOT && (control & POWER_STATE) === 0 && (control & NO_SOFT_RESET) === 0) {
      this.#events.reset('power-state');
      return;
    }
    this.#tellMaster();
    if (this.intxDisabled !== intxDisabled) this.#events.intxDisable();
  }

  /** Back to the state after power-on; tells of bus mastering that ends by it. */
  reset(): void {
    this.#bytes.set(this.#initial);
    this.#tellMaster();
  }

  /** A long write may clear the bit and begin a reset at once: what counts is what was told. */
  #tellMaster(): void {
    if (this.busMaster === this.#toldMaster) return;
    this.#toldMaster = this.busMaster;
    this.#events.busMaster(this.#toldMaster);
  }

  /** Initiate Function Level Reset reads as zero: PCIe base specification section 7.5.3.4. */
  #takesFunctionReset(): boolean {
    const at = this.#express;
    if (at === undefined) return false;
    const control = this.#view.getUint16(at + 8, true);
    if ((control & INITIATE_FLR) === 0) return false;
    this.#view.setUint16(at + 8, control & ~INITIATE_FLR, true);
    return (this.#view.getUint32(at + 4, true) & FLR_CAPABLE) !== 0;
  }

  #word(capability: number | undefined, offset: number): number {
    return capability === undefined ? 0 : this.#view.getUint16(capability + offset, true);
  }
}
