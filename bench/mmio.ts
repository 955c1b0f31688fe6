/**
 * A register read and a doorbell-to-interrupt round over the socket: sealbus' server beside a
 * libvfio-user server in C with the same device, both driven by the same C client, in interleaved
 * rounds. Medians of medians. `node bench/mmio.ts [--json]`.
 *
 * Each is a process of its own, as a VMM and its devices are. Whether client and server share a
 * core decides most of the time (waking another core takes longer than all else), and the scheduler
 * chooses by chance: so both are measured, pinned.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
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
const ROUNDS = 5;
const READS = 4000;
const DOORBELLS = 2000;

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

export interface MmioPlacement {
  readonly mmioRead: MmioFigure;
  readonly doorbellToInterrupt: MmioFigure;
}

export interface MmioResult {
  /** Client and server on different cores, as a vCPU and a device are where there are two. */
  readonly twoCores: MmioPlacement;
  readonly oneCore: MmioPlacement;
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
    const ours = [process.execPath, import.meta.filename, '--serve', peers.library];
    const place = (core: number) =>
      measurePlacement(directory, client, [ours, [server]], core, rounds);
    return { twoCores: await place(1), oneCore: await place(0) };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The client on core 0, the servers on `core`. */
async function measurePlacement(
  directory: string,
  client: string,
  commands: readonly (readonly string[])[],
  core: number,
  rounds: number,
): Promise<MmioPlacement> {
  const servers: ChildProcess[] = [];
  try {
    const paths: string[] = [];
    for (const [index, command] of commands.entries()) {
      const path = join(directory, `server-${core}-${index}`);
      const child = spawn('taskset', ['-c', `${core}`, ...command, path], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      servers.push(child);
      paths.push(path);
      const ended = once(child, 'exit').then(() => {
        throw new Error(`the server ${command.join(' ')} ended before it listened`);
      });
      ended.catch(() => {});
      await Promise.race([once(child.stdout, 'data'), ended]);
    }
    const samples: Sample[][] = paths.map(() => []);
    // Round 0 is to warm up: our code is compiled as it runs.
    for (let round = 0; round <= rounds; round++) {
      for (const [index, path] of paths.entries()) {
        const { stdout } = await execute(
          'taskset',
          ['-c', '0', client, path, `${READS}`, `${DOORBELLS}`],
          { timeout: 60_000 },
        );
        if (round > 0) samples[index]?.push(JSON.parse(stdout) as Sample);
      }
    }
    const [ours = [], c = []] = samples;
    return {
      mmioRead: figure(ours, c, 'mmioRead'),
      doorbellToInterrupt: figure(ours, c, 'doorbellToInterrupt'),
    };
  } finally {
    for (const child of servers) {
      child.kill();
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    }
  }
}

function serve(library: string, socketPath: string): void {
  const server = VfioUserServer.listen({ library, socketPath, endpoint: new Edu(), dma: noDma });
  process.once('SIGTERM', () => server.close());
  process.stdout.write('listening\n');
}

/** The measurement makes no DMA. */
const noDma: DmaPort = {
  rid: requesterId({ bus: 0, device: 4, function: 0 }),
  maxBytes: 1,
  readInto: refused,
  writeFrom: refused,
  readBatch: refused,
  writeBatch: refused,
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
  const [mode, library, socketPath] = process.argv.slice(2);
  if (mode === '--serve' && library !== undefined && socketPath !== undefined) {
    serve(library, socketPath);
  } else {
    const result = await measureMmio((await ensureParts()).libvfioUser);
    process.stdout.write(mode === '--json' ? `${JSON.stringify(result)}\n` : asText(result));
  }
}

function asText(result: MmioResult): string {
  const micro = (ns: number) => (ns / 1000).toFixed(1);
  return Object.entries(result)
    .flatMap(([place, figures]) =>
      Object.entries(figures as MmioPlacement).map(
        ([name, { ours_ns, c_ns, ratio }]) =>
          `${place} ${name}: ours ${micro(ours_ns)} µs, C ${micro(c_ns)} µs, ratio ${ratio.toFixed(2)}\n`,
      ),
    )
    .join('');
}
