import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LibvfioUserPart } from '../src/setup/parts.ts';
import { buildCServer } from './mmio.ts';

const START_TIMEOUT_MS = 10_000;

/** The peer of functions: edu by libvfio-user's own C API (bench/mmio/server.c), listening. */
export interface CServer extends AsyncDisposable {
  readonly pid: number;
  readonly socketPath: string;
}

export const C_SERVER = 'libvfio-user server in C with the same BAR (bench/mmio/server.c)';

/** @throws Error where it cannot be compiled, or does not listen. */
export async function startCServer(part: LibvfioUserPart, directory: string): Promise<CServer> {
  const program = await buildCServer(part, directory);
  const socketPath = join(directory, 'c.sock');
  const child = spawn(program, [socketPath], { stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    const deadline = performance.now() + START_TIMEOUT_MS;
    while (!existsSync(socketPath)) {
      if (child.exitCode !== null || performance.now() > deadline) {
        throw new Error(`expected the C server to listen, got ${child.exitCode ?? 'nothing'}`);
      }
      await sleep(10);
    }
  } catch (error) {
    await end(child);
    throw error;
  }
  return { pid: child.pid!, socketPath, [Symbol.asyncDispose]: () => end(child) };
}

/** It has no state worth a gentle end, and may be blocked in its accept. */
async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}
