/**
 * An SPDK NVMe target over vfio-user with a disk in its memory, as a peer: where the host has one on
 * PATH. It needs hugepages (vm.nr_hugepages), and polls: it is stopped while others are measured.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export const SPDK_PROGRAMS = ['nvmf_tgt', 'spdk_tgt'] as const;
const SUBSYSTEM = 'nqn.2019-07.io.spdk:sealbus';
const BLOCK_BYTES = 512;
/** Beyond its disk: queues, pools. */
const OWN_BYTES = 512 * 2 ** 20;
const START_TIMEOUT_MS = 30_000;
const CALL_TIMEOUT_MS = 30_000;

export interface SpdkTarget extends AsyncDisposable {
  readonly program: string;
  /** For QEMU's vfio-user-pci. */
  readonly socket: string;
  pause(): void;
  resume(): void;
}

/** Its path, where there is one. */
export function spdkProgram(path = process.env.PATH ?? ''): string | undefined {
  for (const directory of path.split(delimiter).filter((part) => part !== '')) {
    for (const name of SPDK_PROGRAMS) {
      const file = join(directory, name);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {
        // Not that one.
      }
    }
  }
  return undefined;
}

/**
 * @param directory of its sockets
 * @param bytes of its disk
 * @throws Error where hugepages are missing, it does not start, or refuses what it is told
 */
export async function startSpdk(
  program: string,
  directory: string,
  bytes: number,
): Promise<SpdkTarget> {
  const memory = bytes + OWN_BYTES;
  const free = freeHugepageBytes(readFileSync('/proc/meminfo', 'utf8'));
  if (free < memory) {
    throw new Error(
      `expected ${memory / 2 ** 20} MiB of free hugepages for ${program}, got ${free / 2 ** 20} MiB: ` +
        'raise vm.nr_hugepages, or take the program off PATH to measure without it',
    );
  }
  const control = join(directory, 'spdk.sock');
  const place = join(directory, 'spdk');
  mkdirSync(place);
  const child = spawn(program, ['-r', control, '-s', String(memory / 2 ** 20)], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  try {
    await listening(child, program, control);
    const call = (method: string, params: object) => callSpdk(control, method, params);
    await call('nvmf_create_transport', { trtype: 'VFIOUSER' });
    await call('bdev_malloc_create', {
      ...{ name: 'memory', block_size: BLOCK_BYTES, num_blocks: bytes / BLOCK_BYTES },
    });
    await call('nvmf_create_subsystem', { nqn: SUBSYSTEM, allow_any_host: true });
    await call('nvmf_subsystem_add_ns', { nqn: SUBSYSTEM, namespace: { bdev_name: 'memory' } });
    await call('nvmf_subsystem_add_listener', {
      nqn: SUBSYSTEM,
      listen_address: { trtype: 'VFIOUSER', traddr: place, trsvcid: '0' },
    });
  } catch (error) {
    await end(child);
    throw error;
  }
  return {
    program,
    socket: join(place, 'cntrl'),
    pause: () => void child.kill('SIGSTOP'),
    resume: () => void child.kill('SIGCONT'),
    [Symbol.asyncDispose]: () => end(child),
  };
}

/** @param meminfo the text of /proc/meminfo */
export function freeHugepageBytes(meminfo: string): number {
  const value = (name: string) =>
    Number(new RegExp(`^${name}: +(\\d+)`, 'm').exec(meminfo)?.[1] ?? 0);
  return value('HugePages_Free') * value('Hugepagesize') * 1024;
}

async function listening(child: ChildProcess, program: string, socket: string): Promise<void> {
  let failure: Error | undefined;
  child.on('error', (error) => {
    failure = error;
  });
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (!existsSync(socket)) {
    if (failure !== undefined) throw failure;
    if (child.exitCode !== null || child.signalCode !== null || performance.now() > deadline) {
      throw new Error(
        `expected ${program} to listen within ${START_TIMEOUT_MS / 1000} s, ` +
          `got ${child.exitCode ?? child.signalCode ?? 'nothing'}`,
      );
    }
    await sleep(50);
  }
}

/** One JSON-RPC 2.0 call, a connection of its own. */
async function callSpdk(socket: string, method: string, params: object): Promise<unknown> {
  const stream = connect(socket);
  stream.setTimeout(CALL_TIMEOUT_MS, () => stream.destroy(new Error(`no answer to ${method}`)));
  stream.write(JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }));
  let text = '';
  try {
    for await (const chunk of stream.setEncoding('utf8')) {
      text += chunk;
      // SPDK leaves the connection open: the answer is over where it is whole.
      const answer = wholeJson(text);
      if (answer === undefined) continue;
      if (answer.error !== undefined) {
        throw new Error(`SPDK refused ${method}: ${JSON.stringify(answer.error)}`);
      }
      return answer.result;
    }
  } finally {
    stream.destroy();
  }
  throw new Error(`expected an answer of SPDK to ${method}, got ${JSON.stringify(text)}`);
}

function wholeJson(text: string): { result?: unknown; error?: unknown } | undefined {
  try {
    return JSON.parse(text) as { result?: unknown; error?: unknown };
  } catch {
    return undefined;
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGKILL');
  await exited;
}
