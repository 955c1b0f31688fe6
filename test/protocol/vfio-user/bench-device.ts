import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expressCapability } from '../../../src/pci/capability/express.ts';
import { msiCapability } from '../../../src/pci/capability/msi.ts';
import { msixCapability } from '../../../src/pci/capability/msix.ts';
import { powerManagementCapability } from '../../../src/pci/capability/power-management.ts';
import type { DmaPort } from '../../../src/pci/dma-port.ts';
import type { PciEndpoint, PciLink, ResetCause } from '../../../src/pci/endpoint.ts';
import { requesterId } from '../../../src/pci/requester-id.ts';
import type { DmaRegion } from '../../../src/vfio-user/dma-regions.ts';
import { VfioUserServer, type VfioUserServerOptions } from '../../../src/vfio-user/server.ts';
import { foundLibrary } from './library.ts';

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

/** No device here makes a DMA through its port; guest memory is tested by its regions. */
const noDma: DmaPort = {
  rid: requesterId({ bus: 0, device: 4, function: 0 }),
  maxBytes: 1,
  readInto: unused,
  writeFrom: unused,
  read: unused,
  write: unused,
};

function unused(): never {
  throw new Error('not used in this test');
}

export interface Bench extends Disposable {
  readonly device: MemoryFunction;
  readonly server: VfioUserServer;
  readonly path: string;
  readonly logged: string[];
  readonly mapped: DmaRegion[];
  readonly unmapped: DmaRegion[];
  readonly busMaster: boolean[];
  readonly connections: boolean[];
}

export async function bench(options: Partial<VfioUserServerOptions> = {}): Promise<Bench> {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-test-'));
  const path = options.socketPath ?? join(directory, 'device');
  const device = new MemoryFunction();
  const logged: string[] = [];
  const mapped: DmaRegion[] = [];
  const unmapped: DmaRegion[] = [];
  const busMaster: boolean[] = [];
  const connections: boolean[] = [];
  const server = VfioUserServer.listen({
    library: await foundLibrary(),
    socketPath: path,
    endpoint: device,
    dma: noDma,
    busMaster: (enabled) => busMaster.push(enabled),
    onRegion: { map: (region) => mapped.push(region), unmap: (region) => unmapped.push(region) },
    onConnection: (connected) => connections.push(connected),
    log: (message) => logged.push(message),
    ...options,
  });
  return {
    device,
    server,
    path,
    logged,
    mapped,
    unmapped,
    busMaster,
    connections,
    [Symbol.dispose]() {
      server.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Waits until `condition` holds. @throws Error after 5 s */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const end = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`expected ${what} within 5 s`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
