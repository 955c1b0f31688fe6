import { CapabilityId } from './capability/capability.ts';
import { msiCapability } from './capability/msi.ts';
import type { InterruptLink, PciCapability, PciEndpoint, PciLink, ResetCause } from './endpoint.ts';
import { relayedLink } from './relayed-link.ts';

/** PCI Local Bus 3.0 §6.8.1.3. */
const MSI_VECTORS_MAX = 32;

/**
 * Stands around a function that has MSI-X and offers MSI in its place, for where MSI-X cannot be: the first vectors,
 * a power of two of them, 32 at most. The function itself is told of MSI-X, and need not know.
 *
 * A stock QEMU (11.1) aborts when a vfio-user device with MSI-X is taken out: it takes the region of the
 * pending bits out of a BAR that it has let go of before.
 */
export class MsiForMsix implements PciEndpoint {
  readonly identity: PciEndpoint['identity'];
  readonly express: boolean;
  readonly capabilities: readonly PciCapability[];
  readonly bars: PciEndpoint['bars'];
  readonly interruptVectors: PciEndpoint['interruptVectors'];
  readonly registerMap?: NonNullable<PciEndpoint['registerMap']>;
  readonly #inner: PciEndpoint;

  /** The function as it is, where it has no MSI-X. */
  static around(inner: PciEndpoint): PciEndpoint {
    return inner.interruptVectors.msix === 0 ? inner : new MsiForMsix(inner);
  }

  private constructor(inner: PciEndpoint) {
    const { intx, msix } = inner.interruptVectors;
    const msi = 2 ** Math.floor(Math.log2(Math.min(msix, MSI_VECTORS_MAX)));
    this.#inner = inner;
    this.identity = inner.identity;
    this.express = inner.express;
    this.bars = inner.bars;
    this.interruptVectors = { intx, msi, msix: 0 };
    this.capabilities = [
      ...inner.capabilities.filter(({ id }) => id !== CapabilityId.msix && id !== CapabilityId.msi),
      msiCapability({ vectors: msi }),
    ];
    if (inner.registerMap !== undefined) this.registerMap = inner.registerMap;
  }

  plug(link: PciLink): void {
    const interrupts = asMsix(link.interrupts, this.interruptVectors.msi);
    this.#inner.plug(relayedLink(link, { interrupts }));
  }

  readBar(bar: number, offset: number, into: Uint8Array): void {
    this.#inner.readBar(bar, offset, into);
  }

  writeBar(bar: number, offset: number, from: Uint8Array): void {
    this.#inner.writeBar(bar, offset, from);
  }

  reset(cause: ResetCause): void {
    this.#inner.reset(cause);
  }
}

/** A vector that MSI has not got is one that no driver was given, and goes nowhere. */
function asMsix(link: InterruptLink, vectors: number): InterruptLink {
  return {
    enabled: () => {
      const kind = link.enabled();
      return kind === 'msi' ? 'msi-x' : kind;
    },
    message: (vector) => {
      if (vector < vectors) link.message(vector);
    },
    intx: (asserted) => link.intx(asserted),
  };
}
