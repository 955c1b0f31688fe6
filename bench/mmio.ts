/**
 * A register read and a doorbell-to-interrupt round over the socket: sealbus' server beside a
 * libvfio-user server in C with the same device, both driven by the same C client, in interleaved
 * rounds. Medians of medians. `node bench/mmio.ts [--json]`.
 *
 * The client is a process of its own, as a VMM is; ours serves on this process's event loop.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { Edu } from '../src/devices/edu/edu.ts';
import type { DmaPort } from '../src/pci/dma-port.ts';
import { requesterId } from '../src/pci/requester-id.ts';
import { ensureParts } from '../src/setup/ensure-parts.ts';
import { VfioUserServer } from '../src/vfio-user/index.ts';

const execute = promisify(execFile);
const ROUNDS = 7;
const READS = 5000;
const DOORBELLS = 3000;

export interface MmioPeers {
  readonly library: string;
  /** libvfio-user's unpacked source. */
  readonly source: string;
}

/** Nanoseconds of one round trip. */
export interface MmioFigure {
  readonly ours_ns: number;
  readonly c_ns: number;
  /** ours / C */
  readonly ratio: number;
}

export interface MmioResult {
  readonly mmioRead: MmioFigure;
  readonly doorbellToInterrupt: MmioFigure;
}

type Sample = { readonly mmioRead: number; readonly doorbellToInterrupt: number };

/** Compiles the C server of this folder: a complete edu that a QEMU can attach. @returns its path */
export async function buildCServer(peers: MmioPeers, directory: string): Promise<string> {
  const server = join(directory, 'server');
  const include = `-I${join(peers.source, 'include')}`;
  const runPath = `-Wl,-rpath,${dirname(peers.library)}`;
  const source = join(import.meta.dirname, 'mmio/server.c');
  await execute('cc', [
    ...['-std=gnu99', '-O2', '-D_GNU_SOURCE', include, source],
    ...[peers.library, runPath, '-o', server],
  ]);
  return server;
}

async function buildClient(directory: string): Promise<string> {
  const client = join(directory, 'client');
  const source = join(import.meta.dirname, 'mmio/client.c');
  await execute('cc', ['-std=gnu99', '-O2', '-D_GNU_SOURCE', source, '-o', client]);
  return client;
}

export async function measureMmio(peers: MmioPeers, rounds = ROUNDS): Promise<MmioResult> {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-bench-'));
  try {
    const server = await buildCServer(peers, directory);
    const client = await buildClient(directory);
    const oursPath = join(directory, 'ours');
    const theirsPath = join(directory, 'c');
    using _ours = VfioUserServer.listen({
      library: peers.library,
      socketPath: oursPath,
      endpoint: new Edu(),
      dma: noDma,
    });
    const theirs = spawn(server, [theirsPath], { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      await once(theirs.stdout, 'data');
      const drive = async (path: string): Promise<Sample> => {
        const { stdout } = await execute(client, [path, `${READS}`, `${DOORBELLS}`], {
          timeout: 60_000,
        });
        return JSON.parse(stdout) as Sample;
      };
      // One round each to warm up: our code is compiled as it runs.
      await drive(oursPath);
      await drive(theirsPath);
      const ours: Sample[] = [];
      const c: Sample[] = [];
      for (let round = 0; round < rounds; round++) {
        ours.push(await drive(oursPath));
        c.push(await drive(theirsPath));
      }
      return {
        mmioRead: figure(ours, c, 'mmioRead'),
        doorbellToInterrupt: figure(ours, c, 'doorbellToInterrupt'),
      };
    } finally {
      theirs.kill();
      if (theirs.exitCode === null && theirs.signalCode === null) await once(theirs, 'exit');
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The measurement makes no DMA. */
const noDma: DmaPort = {
  rid: requesterId({ bus: 0, device: 4, function: 0 }),
  maxBytes: 1,
  readInto: refused,
  writeFrom: refused,
  read: refused,
  write: refused,
};

function refused(): never {
  throw new Error('the MMIO benchmark makes no DMA');
}

function figure(ours: readonly Sample[], c: readonly Sample[], key: keyof Sample): MmioFigure {
  const ours_ns = median(ours.map((sample) => sample[key]));
  const c_ns = median(c.map((sample) => sample[key]));
  return { ours_ns, c_ns, ratio: ours_ns / c_ns };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

if (process.argv[1] === import.meta.filename) {
  const result = await measureMmio((await ensureParts()).libvfioUser);
  if (process.argv.includes('--json')) {
    process.stdout.write(`${JSON.stringify(result)}\n`);
  } else {
    for (const [name, { ours_ns, c_ns, ratio }] of Object.entries(result)) {
      const micro = (ns: number) => (ns / 1000).toFixed(1);
      process.stdout.write(
        `${name}: ours ${micro(ours_ns)} µs, C ${micro(c_ns)} µs, ratio ${ratio.toFixed(2)}\n`,
      );
    }
  }
}
