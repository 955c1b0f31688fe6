/**
 * How interrupts leave a function over vfio-user: an eventfd a vector, which the client hands over
 * with SET_IRQS. libvfio-user keeps one array of eventfds for INTx, MSI and MSI-X together; what is
 * known here of it comes from the messages that the guard let through.
 */
import { close, SystemError, writableNow } from '../ffi/libc.ts';
import type { InterruptLink, PciEndpoint } from '../pci/endpoint.ts';
import type { LiveConfigSpace } from './live-config-space.ts';
import { IRQ_INDEX } from './protocol.ts';

type Kind = ReturnType<InterruptLink['enabled']>;
const KINDS: readonly Kind[] = ['intx', 'msi', 'msi-x'];

export class InterruptWires implements InterruptLink {
  readonly #vectors: PciEndpoint['interruptVectors'];
  readonly #config: LiveConfigSpace;
  /** Writes the eventfd of a vector; the errno or 0. */
  readonly #trigger: (vector: number) => number;
  readonly #log: (message: string) => void;
  /** 1 for each vector that has an eventfd. */
  readonly #wired: Uint8Array;
  /** Our duplicates of eventfds whose write could wait, so that it is asked first. */
  readonly #blocking = new Map<number, number>();
  #wiredKind: Kind = 'none';
  #asserted = false;
  #masked = false;

  constructor(
    vectors: PciEndpoint['interruptVectors'],
    config: LiveConfigSpace,
    trigger: (vector: number) => number,
    log: (message: string) => void,
  ) {
    this.#vectors = vectors;
    this.#config = config;
    this.#trigger = trigger;
    this.#log = log;
    this.#wired = new Uint8Array(Math.max(vectors.intx, vectors.msi, vectors.msix));
  }

  /** Vectors by interrupt index of the protocol. Error and request are not offered: the library
   * would put their eventfds in the place of vector 0. */
  get counts(): readonly number[] {
    const { intx, msi, msix } = this.#vectors;
    return [intx, msi, msix, 0, 0];
  }

  enabled(): Kind {
    const config = this.#config;
    if (config.msixEnabled || this.#wiredKind === 'msi-x') return 'msi-x';
    if (config.msiEnabled || this.#wiredKind === 'msi') return 'msi';
    return this.#wiredKind === 'intx' && !config.intxDisabled ? 'intx' : 'none';
  }

  /** @throws RangeError where the function has no such vector */
  message(vector: number): void {
    const kind = this.enabled();
    const { msi, msix } = this.#vectors;
    const count = kind === 'msi-x' ? msix : kind === 'msi' ? msi : Math.max(msi, msix);
    if (!Number.isInteger(vector) || vector < 0 || vector >= count) {
      throw new RangeError(
        `expected a vector from 0 to ${count - 1} of ${kind === 'none' ? 'MSI or MSI-X' : kind}, got ${vector}`,
      );
    }
    if (kind === 'msi-x' || kind === 'msi') this.#send(vector);
  }

  /** @throws RangeError where the function has no INTx pin */
  intx(asserted: boolean): void {
    if (this.#vectors.intx === 0) {
      throw new RangeError('expected a function with an INTx pin (interruptVectors.intx is 0)');
    }
    const rises = asserted && !this.#asserted;
    this.#asserted = asserted;
    this.#config.setInterruptStatus(asserted);
    if (rises) this.#sendLevel();
  }

  /** The client masked or unmasked INTx: unmasked while asserted, a level is seen again. */
  mask(masked: boolean): void {
    this.#masked = masked;
    if (!masked) this.#sendLevel();
  }

  /** The guest wrote the INTx disable bit. */
  intxDisableChanged(): void {
    this.#sendLevel();
  }

  /**
   * A message that the guard let through gives eventfds to vectors from `start` on. Each entry is
   * our duplicate of one whose write could wait (kept and closed here), else undefined.
   */
  wire(index: number, start: number, blocking: readonly (number | undefined)[]): void {
    this.#wiredKind = KINDS[index] ?? 'none';
    for (const [i, descriptor] of blocking.entries()) {
      this.#forget(start + i);
      this.#wired[start + i] = 1;
      if (descriptor !== undefined) this.#blocking.set(start + i, descriptor);
    }
  }

  /** After the library has taken the eventfds of {@link wire}: a level that is up is seen at once. */
  wiredNow(index: number): void {
    if (index !== IRQ_INDEX.intx) return;
    this.#masked = false;
    this.#sendLevel();
  }

  /** A message took eventfds away; count 0 is all of the index. */
  unwire(index: number, start: number, count: number): void {
    const end = count === 0 ? (this.counts[index] ?? 0) : start + count;
    for (let vector = start; vector < end; vector++) this.#forget(vector);
    if (count === 0 && this.#wiredKind === KINDS[index]) this.#wiredKind = 'none';
  }

  /** Whether the library may write each eventfd by itself without ever waiting. */
  get neverBlocks(): boolean {
    return this.#blocking.size === 0;
  }

  /** The connection has gone. */
  disconnected(): void {
    for (let vector = 0; vector < this.#wired.length; vector++) this.#forget(vector);
    this.#wiredKind = 'none';
    this.#masked = false;
  }

  /** The function was reset: INTx is deasserted. */
  reset(): void {
    this.#asserted = false;
    this.#config.setInterruptStatus(false);
  }

  #forget(vector: number): void {
    this.#wired[vector] = 0;
    const descriptor = this.#blocking.get(vector);
    if (descriptor === undefined) return;
    this.#blocking.delete(vector);
    close(descriptor);
  }

  #sendLevel(): void {
    if (this.#asserted && !this.#masked && this.enabled() === 'intx') this.#send(0);
  }

  #send(vector: number): void {
    // No eventfd: the client has masked the vector, or never asked for it.
    if (this.#wired[vector] === 0) return;
    if (this.#blocking.size > 0) {
      const descriptor = this.#blocking.get(vector);
      // An eventfd that is full has been signalled already.
      if (descriptor !== undefined && !writableNow(descriptor)) return;
    }
    const errno = this.#trigger(vector);
    if (errno !== 0) {
      this.#log(`interrupt ${vector}: ${new SystemError('vfu_irq_trigger', errno).message}`);
    }
  }
}
