/** A QEMU process: its sockets, its last words, and its end in bounded time. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { findProgram } from '../setup/host-programs.ts';
import { formatCommand } from './qemu-command.ts';
import { indent } from './serial.ts';
import { TextTail } from './text-tail.ts';
import { QemuEndedError, VmError } from './vm-error.ts';

const stderrBytesMax = 64 << 10;
const termAfterMs = 2000;
const killAfterMs = 2000;
/** A QEMU stuck in a page fault on a stopped server cannot even be killed: then say so. */
const giveUpAfterMs = 5000;

/** First descriptor after stdin, stdout and stderr. */
export const firstChannel = 3;

export interface QemuExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Those that live now: a process that exits in haste takes them along. */
const alive = new Set<QemuProcess>();
let exitHook = false;

export class QemuProcess {
  /** UNIX stream sockets, the n-th to QEMU's descriptor 3 + n. */
  readonly channels: readonly Duplex[];
  /** Settles when the process is gone and all that it wrote was read. Never rejects. */
  readonly exited: Promise<QemuExit>;
  readonly #child: ChildProcess;
  readonly #stderr = new TextTail(stderrBytesMax);
  readonly #command: readonly string[];
  readonly #env: Readonly<Record<string, string>>;
  #startFailure: Error | undefined;
  #exit: QemuExit | undefined;

  /**
   * Starts it, in a process group of its own: a Ctrl-C on the terminal is ours to handle. Where
   * setpriv is present, the kernel kills it when this thread ends, however it ends.
   */
  constructor(
    command: readonly [string, ...string[]],
    env: Readonly<Record<string, string>>,
    channels: number,
  ) {
    this.#command = command;
    this.#env = env;
    const setpriv = findProgram('setpriv');
    const line = setpriv ? [setpriv, '--pdeathsig', 'KILL', '--', ...command] : command;
    this.#child = spawn(line[0]!, line.slice(1), {
      detached: true,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'ignore', 'pipe', ...new Array<'pipe'>(channels).fill('pipe')],
    });
    this.#child.stderr?.on('data', (chunk: Buffer) => this.#stderr.push(chunk));
    this.channels = this.#child.stdio.slice(firstChannel) as unknown as Duplex[];
    for (const channel of this.channels) channel.on('error', () => {}); // 'close' follows
    this.exited = new Promise((resolve) => {
      this.#child.once('error', (error) => {
        this.#startFailure = error;
        if (this.#child.pid === undefined) this.#ended({ code: null, signal: null }, resolve);
      });
      this.#child.once('close', (code, signal) => this.#ended({ code, signal }, resolve));
    });
    alive.add(this);
    if (!exitHook) {
      exitHook = true;
      process.on('exit', () => {
        for (const one of alive) one.kill('SIGKILL');
      });
    }
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  get running(): boolean {
    return this.#exit === undefined;
  }

  /** What QEMU last wrote to stderr. */
  get stderr(): string {
    return this.#stderr.toString();
  }

  /** To the whole process group. Nothing where it is gone. */
  kill(signal: NodeJS.Signals): void {
    if (this.#exit || this.#child.pid === undefined) return;
    try {
      process.kill(-this.#child.pid, signal);
    } catch {
      // ESRCH: gone, its streams not yet read to their end
    }
  }

  /**
   * Ends it: first as `ask` does (such as by QMP's quit), then SIGTERM, then SIGKILL.
   * @throws VmError where even that does not end it
   */
  async end(ask: () => Promise<void>): Promise<QemuExit> {
    if (this.#exit) return this.#exit;
    ask().catch(() => this.kill('SIGTERM'));
    const timers = [
      setTimeout(() => this.kill('SIGTERM'), termAfterMs),
      setTimeout(() => this.kill('SIGKILL'), termAfterMs + killAfterMs),
    ];
    try {
      return await this.#exitWithin(termAfterMs + killAfterMs + giveUpAfterMs);
    } finally {
      for (const timer of timers) clearTimeout(timer);
    }
  }

  /** Ends it by SIGKILL. @throws VmError where even that does not end it */
  async endNow(): Promise<QemuExit> {
    this.kill('SIGKILL');
    return await this.#exitWithin(giveUpAfterMs);
  }

  async #exitWithin(timeoutMs: number): Promise<QemuExit> {
    let timer: NodeJS.Timeout | undefined;
    const stuck = new Promise<never>((_resolve, reject) => {
      const say = () =>
        reject(
          new VmError(
            `expected QEMU (pid ${this.pid}) to end, got none ${giveUpAfterMs / 1000} s after ` +
              'SIGKILL: it waits in the kernel, perhaps for a memory controller that is stopped',
          ),
        );
      timer = setTimeout(say, timeoutMs);
    });
    try {
      return await Promise.race([this.exited, stuck]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The error for an end that nobody asked for. */
  endedError(during: string, console?: string): QemuEndedError {
    const { code, signal } = this.#exit ?? { code: null, signal: null };
    const how = this.#startFailure
      ? `did not start: ${this.#startFailure.message}`
      : signal
        ? `was ended by ${signal}`
        : `ended with exit code ${code}`;
    const tail = this.#stderr.lastLines(15);
    const said = console === undefined ? '' : `\n  The console's last lines:\n${indent(console)}`;
    return new QemuEndedError(
      `expected QEMU to run ${during}, but it ${how}.\n  It said:\n${indent(tail)}${said}\n` +
        `  Its command:\n${indent(formatCommand(this.#command, this.#env))}`,
    );
  }

  #ended(exit: QemuExit, resolve: (exit: QemuExit) => void): void {
    if (this.#exit) return;
    this.#exit = exit;
    alive.delete(this);
    resolve(exit);
  }
}
