import type { InterruptLink } from './endpoint.ts';

/** Where the link is, once the function is plugged in. @throws Error before. */
export type LinkSource = () => InterruptLink;

/** The MSI-X vectors of a function. */
export class MsixVectors {
  readonly count: number;
  readonly #link: LinkSource;

  constructor(count: number, link: LinkSource) {
    this.count = count;
    this.#link = link;
  }

  /** Whether the guest has enabled MSI-X. @throws Error before the function is plugged in. */
  get enabled(): boolean {
    return this.#link().enabled() === 'msi-x';
  }

  /**
   * Sends the vector's message. Where the guest has not enabled MSI-X nothing happens, as on
   * hardware.
   *
   * @throws RangeError where the function has no such vector; Error before it is plugged in.
   */
  raise(vector: number): void {
    if (!Number.isInteger(vector) || vector < 0 || vector >= this.count) {
      throw new RangeError(
        this.count === 0
          ? 'the function has no MSI-X vectors: declare them, static readonly interrupts = { msix: 1 }'
          : `expected an MSI-X vector from 0 to ${this.count - 1}, got ${vector}`,
      );
    }
    const link = this.#link();
    if (link.enabled() === 'msi-x') link.message(vector);
  }
}

/**
 * One cause of interrupts, however the guest takes them: a message for each {@link raise} where MSI
 * or MSI-X is enabled, else the level of INTA#.
 */
export class InterruptLine {
  readonly #link: LinkSource;
  readonly #pin: 0 | 1;
  #asserted = false;

  constructor(pin: 0 | 1, link: LinkSource) {
    this.#pin = pin;
    this.#link = link;
  }

  /** True from {@link raise} to {@link lower}, on INTA#. */
  get asserted(): boolean {
    return this.#asserted;
  }

  /** @param vector of MSI or MSI-X; default 0. @throws Error before the function is plugged in. */
  raise(vector = 0): void {
    const link = this.#link();
    const enabled = link.enabled();
    if (enabled === 'msi' || enabled === 'msi-x') {
      link.message(vector);
    } else if (this.#pin === 1) {
      // Also where INTx is disabled: the pin's state is the function's, the gate is the transport's.
      this.#asserted = true;
      link.intx(true);
    }
  }

  /** Takes INTA# back; messages need no such thing. */
  lower(): void {
    if (!this.#asserted) return;
    this.#asserted = false;
    this.#link().intx(false);
  }
}
