/** The `sealbus` command as a shell starts it, and what it may leave behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { detachStaleMount } from '../../../src/memory/fuse/fuse-mount.ts';

export const repository = fileURLToPath(new URL('../../..', import.meta.url));
const main = join(repository, 'src/cli/main.ts');
const RUN_TIMEOUT_MS = 90_000;

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** A run that goes on. */
export interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  /** What it has printed so far. */
  stdout(): string;
  /** Resolves once stdout and stderr together have said it. @throws Error where it ends first */
  said(words: RegExp): Promise<void>;
}

/**
 * A place of its own for what runs keep, so that what they leave is seen and others' is not: their
 * run directories, and a mark in the environment of all that they start.
 */
export class RunPlace implements Disposable {
  /** XDG_RUNTIME_DIR of the runs. */
  readonly path = mkdtempSync(join(tmpdir(), 'sealbus-test-'));
  /** A directory for the files of a test, which goes with the place. */
  readonly files = join(this.path, 'files');

  constructor() {
    mkdirSync(this.files);
  }

  start(args: readonly string[], options: StartOptions = {}): Running {
    return this.spawn([process.execPath, main, ...args], options);
  }

  /** Runs it to its end; killed where it takes too long. */
  async run(args: readonly string[], options: StartOptions = {}): Promise<Ended> {
    return await this.start(args, options).ended;
  }

  /** Starts any program with the environment of this place. */
  spawn([program = '', ...args]: readonly string[], options: StartOptions = {}): Running {
    const child = spawn(program, args, {
      cwd: options.cwd ?? repository,
      env: { ...process.env, ...options.env, XDG_RUNTIME_DIR: this.path },
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: options.ownGroup ?? false,
      timeout: options.timeoutMs ?? RUN_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    const stdout: Buffer[] = [];
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.stdin.on('error', () => {}); // EPIPE: it ended without reading
    if (options.stdin !== 'open') child.stdin.end(options.stdin ?? '');
    const ended = new Promise<Ended>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) =>
        resolve({ code, signal, stdout: Buffer.concat(stdout), stderr }),
      );
    });
    ended.catch(() => {});
    let over = false;
    ended.finally(() => {
      over = true;
    });
    const said = async (words: RegExp) => {
      while (!words.test(stderr + Buffer.concat(stdout).toString())) {
        if (over) throw new Error(`expected ${words} before its end, got: ${stderr}`);
        await sleep(10);
      }
    };
    return { child, ended, said, stdout: () => Buffer.concat(stdout).toString() };
  }

  /** Processes of runs in this place: their environment names it. Zombies do not count. */
  get processes(): readonly { readonly pid: number; readonly name: string }[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
      .flatMap((pid) => {
        const read = (file: string) => {
          try {
            return readFileSync(`/proc/${pid}/${file}`, 'utf8');
          } catch {
            return ''; // gone
          }
        };
        if (!read('environ').split('\0').includes(`XDG_RUNTIME_DIR=${this.path}`)) return [];
        return [{ pid: Number(pid), name: read('cmdline').replaceAll('\0', ' ') }];
      });
  }

  /** The pid of the one QEMU. @throws Error where there is none, or several */
  get qemu(): number {
    return this.#one('QEMU', (name) => name.includes('-machine q35'));
  }

  /** The pid of the one memory controller. @throws Error where there is none, or several */
  get controller(): number {
    return this.#one('memory controller', (name) => /sealbus-memory|controller\/main/.test(name));
  }

  get mounts(): readonly string[] {
    return readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[4] ?? '')
      .filter((path) => path.startsWith(`${this.path}/`));
  }

  /** Run directories, with their sockets. */
  get directories(): readonly string[] {
    try {
      return readdirSync(join(this.path, 'sealbus'));
    } catch {
      return [];
    }
  }

  /** What runs have left, in words; empty where they tidied up. */
  get left(): readonly string[] {
    return [
      ...this.processes.map(({ pid, name }) => `process ${pid}: ${name.slice(0, 150)}`),
      ...this.mounts.map((path) => `mount ${path}`),
      ...this.directories.map((name) => `directory ${name}`),
    ];
  }

  #one(what: string, is: (name: string) => boolean): number {
    const [found, ...more] = this.processes.filter(({ name }) => is(name));
    if (found === undefined || more.length > 0) {
      throw new Error(`expected one ${what}, got ${found === undefined ? 0 : 1 + more.length}`);
    }
    return found.pid;
  }

  /** Ends what is left, by process: a test that failed must not spoil the next. */
  [Symbol.dispose](): void {
    for (const { pid } of this.processes) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // gone meanwhile
      }
    }
    for (const path of this.mounts) detachStaleMount(path);
    rmSync(this.path, { recursive: true, force: true });
  }
}

export interface StartOptions {
  /** The repository where not given. */
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** All of stdin; 'open' leaves it open and empty. Default: the end at once. */
  readonly stdin?: Uint8Array | string | 'open';
  /** After it it is killed. 90 s where not given. */
  readonly timeoutMs?: number;
  /** A process group of its own, to which a terminal's Ctrl-C can be sent. */
  readonly ownGroup?: boolean;
}

/** Waits until `held` is true. @throws Error with `what` after `limitMs` */
export async function until(held: () => boolean, limitMs: number, what: string): Promise<void> {
  const end = performance.now() + limitMs;
  while (!held()) {
    if (performance.now() > end) throw new Error(`expected ${what} within ${limitMs} ms`);
    await sleep(20);
  }
}
