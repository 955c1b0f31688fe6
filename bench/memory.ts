/**
 * Memory of the device's process and of the controller beyond guest RAM and DRAM, beside the C server
 * that serves the same function in the same VM. `node bench/main.ts --only memory`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BenchContext } from './bench-context.ts';
import { C_SERVER, startCServer } from './c-server.ts';
import type { DeviceProcessReady } from './device-process.ts';
import { type Comparison, compare, interleaved, median, rounded } from './figures.ts';
import { type ProcessMemory, processMemory } from './process-memory.ts';

const ROUNDS = 5;
const ROUND_PAUSE_MS = 200;

/** The ratio is the device's process to the C server, resident bytes beyond guest RAM and DRAM. */
export interface MemoryResult extends Comparison {
  readonly device: ProcessMemory;
  readonly controller: ProcessMemory;
  readonly cServer: ProcessMemory;
  /** For context: the VMM itself. */
  readonly qemu: ProcessMemory;
  /** For context: a Node that does nothing. */
  readonly bareNode: ProcessMemory;
  /** The device's process to a bare Node. */
  readonly ratioBareNode: number;
}

/** @throws FuseUnavailable's words, where memory cannot be sealed here; Error */
export async function benchMemory({ parts, say, signal }: BenchContext): Promise<MemoryResult> {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-bench-'));
  try {
    await using stack = new AsyncDisposableStack();
    const server = stack.use(await startCServer(parts.libvfioUser, directory));
    say('booting a sealed guest, its device in a process of its own');
    const bare = spawnNode(['-e', "process.on('disconnect', () => process.exit())"], signal);
    stack.defer(() => endNode(bare));
    const device = spawnNode(
      [join(import.meta.dirname, 'device-process.ts'), server.socketPath],
      signal,
    );
    stack.defer(() => endNode(device));
    const ready = await firstMessage(device);
    const isGuestRam = (path: string) =>
      path.startsWith(ready.ramPath) || path.startsWith('/memfd:sealbus-dram');
    const of = (pid: number) => () => processMemory(pid, isGuestRam);
    const rounds = await interleaved(
      ROUNDS,
      {
        device: of(device.pid!),
        controller: of(ready.controllerPid),
        cServer: of(server.pid),
        qemu: of(ready.qemuPid),
        bareNode: of(bare.pid!),
      },
      async () => {
        signal.throwIfAborted();
        await sleep(ROUND_PAUSE_MS);
      },
    );
    const ours = medians(rounds.device);
    const cServer = medians(rounds.cServer);
    const bareNode = medians(rounds.bareNode);
    const peer = `resident bytes beyond guest RAM of the ${C_SERVER}`;
    return {
      ...compare(ours.rss_bytes, cServer.rss_bytes, { peer, rounds: ROUNDS }),
      ...{ device: ours, cServer, bareNode },
      controller: medians(rounds.controller),
      qemu: medians(rounds.qemu),
      ratioBareNode: rounded(ours.rss_bytes / bareNode.rss_bytes),
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function medians(rounds: readonly ProcessMemory[]): ProcessMemory {
  const of = (key: keyof ProcessMemory) => median(rounds.map((round) => round[key]));
  return {
    rss_bytes: of('rss_bytes'),
    pss_bytes: of('pss_bytes'),
    guestRam_bytes: of('guestRam_bytes'),
  };
}

function spawnNode(args: readonly string[], signal: AbortSignal): ChildProcess {
  signal.throwIfAborted();
  const child = spawn(process.execPath, args, { stdio: ['ignore', 2, 2, 'ipc'] });
  child.on('error', () => {}); // its exit says it
  return child;
}

async function firstMessage(child: ChildProcess): Promise<DeviceProcessReady> {
  const gone = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`expected the device's process to be ready, got ${signal ?? `status ${code}`}`);
  });
  gone.catch(() => {}); // raced
  const [message] = await Promise.race([once(child, 'message'), gone]);
  return message as DeviceProcessReady;
}

/** It ends in order when the channel closes. */
async function endNode(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  if (child.connected) child.disconnect();
  await exited;
}
