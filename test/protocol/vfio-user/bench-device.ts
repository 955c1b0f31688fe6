import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DmaPort } from '../../../src/pci/dma-port.ts';
import { requesterId } from '../../../src/pci/requester-id.ts';
import type { DmaRegion } from '../../../src/vfio-user/dma-regions.ts';
import { VfioUserServer, type VfioUserServerOptions } from '../../../src/vfio-user/server.ts';
import { foundLibrary } from './library.ts';
import { MemoryFunction } from './memory-function.ts';

/** No device here makes a DMA through its port; guest memory is tested by its regions. */
const noDma: DmaPort = {
  rid: requesterId({ bus: 0, device: 4, function: 0 }),
  maxBytes: 1,
  readInto: unused,
  writeFrom: unused,
  readBatch: unused,
  writeBatch: unused,
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
  let server: VfioUserServer;
  try {
    server = VfioUserServer.listen({
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
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  }
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
