import { expressCapability } from '../../../src/pci/capability/express.ts';
import { msiCapability } from '../../../src/pci/capability/msi.ts';
import { msixCapability } from '../../../src/pci/capability/msix.ts';
import { powerManagementCapability } from '../../../src/pci/capability/power-management.ts';
import type { PciEndpoint, PciLink, ResetCause } from '../../../src/pci/endpoint.ts';

/** A function whose BAR0 is plain memory, that records what its transport does to it. */
export class MemoryFunction implements PciEndpoint {
  readonly identity = {
    vendor: 0x1b36,
    device: 0x5eb1,
    subsystemVendor: 0x1af4,
    subsystem: 0x1100,
    revision: 7,
    classCode: 0xff1234,
  };
  readonly express = true;
  readonly capabilities = [
    powerManagementCapability({ keepsState: false }),
    msiCapability({ vectors: 4 }),
    msixCapability({
      vectors: 8,
      table: { bar: 2, offset: 0 },
      pending: { bar: 2, offset: 0x800 },
    }),
    expressCapability(),
  ];
  readonly bars = [
    { size: 0x10000, kind: 'memory', width: 32, prefetchable: false },
    undefined,
    { size: 0x1000, kind: 'memory', width: 64, prefetchable: true },
    undefined,
    { size: 0x20, kind: 'io', width: 32, prefetchable: false },
    undefined,
  ] as const;
  readonly interruptVectors = { intx: 1, msi: 4, msix: 8 } as const;
  readonly memory = new Uint8Array(0x10000);
  readonly resets: ResetCause[] = [];
  readonly accesses: { bar: number; offset: number; length: number; write: boolean }[] = [];
  /** Called in place of the memory, where set. */
  onAccess: (() => void) | undefined;
  link!: PciLink;

  plug(link: PciLink): void {
    this.link = link;
  }

  readBar(bar: number, offset: number, into: Uint8Array): void {
    if (this.accesses.length < 1000) {
      this.accesses.push({ bar, offset, length: into.length, write: false });
    }
    this.onAccess?.();
    into.set(this.memory.subarray(offset, offset + into.length));
  }

  writeBar(bar: number, offset: number, from: Uint8Array): void {
    if (this.accesses.length < 1000) {
      this.accesses.push({ bar, offset, length: from.length, write: true });
    }
    this.onAccess?.();
    this.memory.set(from, offset);
  }

  reset(cause: ResetCause): void {
    this.resets.push(cause);
  }
}
