/** A running guest: QEMU, its console, its QMP, and commands in it. */
import { Writable } from 'node:stream';
import type { QemuPart } from '../setup/parts.ts';
import { Agent, type AgentHello } from './agent.ts';
import { agentServiceNeeds } from './agent-service.ts';
import {
  type CommandEnd,
  type GuestCommand,
  panicExitCode,
  type RunOptions,
} from './guest-command.ts';
import { loadState } from './machine-state.ts';
import { qemuCommand, type VirtualMachineDescription } from './qemu-command.ts';
import { firstChannel, QemuProcess } from './qemu-process.ts';
import { QmpClient } from './qmp.ts';
import { indent, SerialConsole } from './serial.ts';
import { GuestPanicError, VmError, VmTimeoutError } from './vm-error.ts';

export interface VirtualMachineOptions {
  readonly qemu: QemuPart;
  /** Servers of its vfio-user devices listen already. */
  readonly description: Omit<VirtualMachineDescription, 'console' | 'agent' | 'qmp' | 'incoming'>;
  /** A state that such a machine with such a guest was saved in: it goes on from there. */
  readonly state?: string;
  /**
   * Our agent is the guest's init (where not given), a service of the guest's own init, or not there:
   * then the machine is started as soon as QEMU is, and no command runs in it.
   */
  readonly agent?: 'init' | 'service' | false;
  /** From QEMU's start to the agent's first word. 120 s where not given. */
  readonly bootTimeoutMs?: number;
  /** Sees all that the console says, from its first byte. */
  readonly onConsole?: (chunk: Buffer) => void;
  /** Ends the boot, and what was started. */
  readonly signal?: AbortSignal;
}

export interface ExecResult extends CommandEnd {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

/** How a machine ended, with what to say of it where somebody still needed it. */
export interface MachineEnd {
  /** `off`: the guest powered off, or QEMU was asked to quit. */
  readonly kind: 'off' | 'panicked' | 'failed';
  readonly error: Error;
}

export interface RebootOptions {
  /** Until the agent is ready again. 120 s where not given. */
  readonly timeoutMs?: number;
  /** `reboot -f` where not given. */
  readonly command?: readonly string[];
}

export interface ExecOptions extends Omit<RunOptions, 'stdout' | 'stderr'> {
  /** Of stdout and of stderr. 64 MiB where not given. */
  readonly outputBytesMax?: number;
}

const bootTimeoutDefaultMs = 120_000;
const outputBytesDefault = 64 << 20;
const fileTimeoutMs = 120_000;
const powerOffTimeoutMs = 10_000;
/** A kernel that is not told to end the machine at a panic says its last words, and hangs. */
const panicGraceMs = 2000;

export class VirtualMachine implements AsyncDisposable {
  readonly console: SerialConsole;
  readonly qmp: QmpClient;
  /** From QEMU's start to the agent's first word; to QMP's where there is no agent. */
  readonly bootSeconds: number;
  /** As the agent says; empty where there is none. */
  readonly kernelRelease: string;
  /** Settles when QEMU is gone, however. Never rejects. */
  readonly ended: Promise<MachineEnd>;
  readonly #lost: { error?: Error };
  readonly #process: QemuProcess;
  readonly #agent: Agent | undefined;

  private constructor(parts: StartedParts, hello: AgentHello | undefined, bootSeconds: number) {
    this.#process = parts.process;
    this.#agent = parts.agent;
    this.console = parts.console;
    this.qmp = parts.qmp;
    this.bootSeconds = bootSeconds;
    this.kernelRelease = hello?.kernelRelease ?? '';
    this.ended = parts.ended;
    this.#lost = parts.lost;
  }

  /**
   * Starts QEMU and waits until the guest's agent is ready; where that fails, nothing is left.
   * @throws QemuEndedError, GuestPanicError, VmTimeoutError, VmError; the signal's reason
   */
  static async start(options: VirtualMachineOptions): Promise<VirtualMachine> {
    const { qemu, agent: role = 'init', bootTimeoutMs = bootTimeoutDefaultMs, signal } = options;
    const { state } = options;
    signal?.throwIfAborted();
    const channel = (index: number) => ({ kind: 'descriptor', fd: firstChannel + index }) as const;
    const command = qemuCommand(qemu, {
      ...options.description,
      ...{ console: channel(0), qmp: channel(1) },
      ...(role === false ? {} : { agent: channel(2) }),
      incoming: state !== undefined,
    }) as [string, ...string[]];

    const startedAt = performance.now();
    const process = new QemuProcess(command, qemu.env, role === false ? 2 : 3);
    const [serial, monitor, port] = process.channels;
    const console = new SerialConsole(serial!, options.onConsole);
    const agent = port === undefined ? undefined : new Agent(port);
    const lost: { error?: Error } = {};
    const ended = watchEnd(process, console, agent, lost);
    let stop: (error: Error) => void = () => {};
    const stopped = new Promise<never>((_resolve, reject) => {
      stop = reject;
    });
    stopped.catch(() => {}); // raced below
    const timer = setTimeout(() => stop(bootTimeout(role, bootTimeoutMs, console)), bootTimeoutMs);
    const onAbort = () => stop(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      const qmp = await Promise.race([
        QmpClient.connect(monitor!, bootTimeoutMs).catch((error) => sooner(ended, error)),
        stopped,
      ]);
      if (state !== undefined) {
        const loaded = loadState(qmp, state, bootTimeoutMs).catch((error) => sooner(ended, error));
        await Promise.race([loaded, stopped]);
        agent?.greet();
      }
      qmp.onEvent(({ event }) => {
        if (event === 'RESET') agent?.restarted(new VmError('the guest was reset meanwhile'));
      });
      const hello = await Promise.race([agent?.hello, stopped]);
      const seconds = (performance.now() - startedAt) / 1000;
      return new VirtualMachine({ process, console, agent, qmp, ended, lost }, hello, seconds);
    } catch (error) {
      await process.endNow();
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  get running(): boolean {
    return this.#process.running;
  }

  get pid(): number {
    return this.#process.pid!;
  }

  /** Starts a command; the result can be signalled, and its `ended` awaited. @throws VmError */
  start(command: readonly string[], options?: RunOptions): GuestCommand {
    if (this.#agent === undefined) {
      throw new VmError(
        `expected a guest with our agent to run '${command.join(' ')}', got one without`,
      );
    }
    return this.#agent.start(command, options);
  }

  /**
   * Runs a command with the given streams.
   * @throws QemuEndedError where QEMU ends meanwhile (a panic is an end with exit code 255); VmError
   */
  async run(command: readonly string[], options?: RunOptions): Promise<CommandEnd> {
    return await this.start(command, options).ended;
  }

  /** Runs a command and collects what it writes. @throws as `run`; VmError where that is too much */
  async exec(command: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    const { outputBytesMax = outputBytesDefault, ...rest } = options;
    let overflow = false;
    const collector = () => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      const sink = new Writable({
        write(chunk: Buffer, _encoding, done) {
          bytes += chunk.length;
          if (bytes <= outputBytesMax) chunks.push(Buffer.from(chunk));
          else if (!overflow) {
            overflow = true;
            running.signal(9);
          }
          done();
        },
      });
      return { sink, take: () => Buffer.concat(chunks) };
    };
    const [stdout, stderr] = [collector(), collector()];
    const running = this.start(command, { ...rest, stdout: stdout.sink, stderr: stderr.sink });
    const end = await running.ended;
    if (overflow) {
      throw new VmError(
        `expected at most ${outputBytesMax} bytes of output from '${command.join(' ')}', got more`,
      );
    }
    return { ...end, stdout: stdout.take(), stderr: stderr.take() };
  }

  /** Runs a command that must succeed, and gives its stdout. @throws VmError with its stderr */
  async check(command: readonly string[], options?: ExecOptions): Promise<string> {
    const { exitCode, stdout, stderr } = await this.exec(command, options);
    if (exitCode !== 0) {
      throw new VmError(
        `expected '${command.join(' ')}' in the guest to succeed, got exit code ${exitCode}. ` +
          `It said:\n${indent(`${stdout}${stderr}`.trim().slice(-4000))}`,
      );
    }
    return stdout.toString('utf8');
  }

  /** Makes or replaces a file; its directory must be there. @throws VmError */
  async writeFile(path: string, bytes: Uint8Array, timeoutMs = fileTimeoutMs): Promise<void> {
    await this.check(['sh', '-c', 'exec cat > "$1"', 'sh', path], { stdin: bytes, timeoutMs });
  }

  /** @throws VmError */
  async readFile(path: string, timeoutMs = fileTimeoutMs): Promise<Buffer> {
    const { exitCode, stdout, stderr } = await this.exec(['cat', '--', path], { timeoutMs });
    if (exitCode !== 0) {
      throw new VmError(`expected to read ${path} in the guest, got: ${`${stderr}`.trim()}`);
    }
    return stdout;
  }

  /** Loads a module of the image by its name. @throws VmError with what the kernel said */
  async insmod(name: string, parameters: Readonly<Record<string, string>> = {}): Promise<void> {
    const settings = Object.entries(parameters).map(([key, value]) => `${key}=${value}`);
    await this.check(['insmod', `/lib/modules/${name}.ko`, ...settings]);
  }

  /**
   * Has the guest boot again, by a command that it runs, and waits until its agent is ready. What ran in
   * it ends with an error.
   * @throws VmTimeoutError; QemuEndedError, GuestPanicError where it does not come back; VmError
   */
  async reboot(options: RebootOptions = {}): Promise<void> {
    const { timeoutMs = bootTimeoutDefaultMs, command = ['reboot', '-f'] } = options;
    const anew = this.startedAnew(timeoutMs);
    anew.catch(() => {}); // awaited below, unless setting fails
    await this.qmp.execute('set-action', { reboot: 'reset' }); // in place of -no-reboot
    try {
      this.start(command);
      await anew;
    } finally {
      // A panic is to end QEMU again; gone, it has nothing to set.
      await this.qmp.execute('set-action', { reboot: 'shutdown' }).catch(() => {});
    }
  }

  /**
   * Settles when the guest's agent is ready the next time: the guest has started anew, whoever made it. A
   * firmware may reset the machine once more on its way, so an event of QEMU's is too early.
   * @throws VmTimeoutError; QemuEndedError, GuestPanicError where it does not come back; VmError
   */
  async startedAnew(timeoutMs = bootTimeoutDefaultMs): Promise<void> {
    if (this.#agent === undefined) throw new VmError('expected a guest with our agent to reboot');
    const back = this.#agent.nextHello();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(bootTimeout('init', timeoutMs, this.console)), timeoutMs);
    });
    try {
      await Promise.race([back, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Asks the guest to power off (its power button where there is no agent), and ends QEMU where it
   * does not within the time: 10 s where not given.
   * @returns whether the guest did so by itself
   * @throws VmError
   */
  async powerOff(timeoutMs = powerOffTimeoutMs): Promise<boolean> {
    if (this.#agent === undefined)
      this.qmp.powerDown().catch(() => {}); // gone: that is the end
    else this.#agent.powerOff();
    let timer: NodeJS.Timeout | undefined;
    const patience = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), timeoutMs);
    });
    const itself = this.#process.exited.then(({ code }) => code === 0);
    const clean = await Promise.race([itself, patience]);
    clearTimeout(timer);
    await this.stop();
    return clean && this.console.panic === undefined;
  }

  /** Ends QEMU: QMP's quit, then SIGTERM, then SIGKILL. Any number of times. @throws VmError */
  async stop(): Promise<void> {
    await this.#process.end(() => this.qmp.quit());
    await this.ended;
  }

  /** Ends QEMU at once, since what it stands on is gone: what waits for the guest fails with `error`. */
  fail(error: Error): void {
    this.#lost.error = error;
    this.#agent?.end(error);
    this.#process.kill('SIGKILL');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

interface StartedParts {
  readonly process: QemuProcess;
  readonly console: SerialConsole;
  readonly agent: Agent | undefined;
  readonly qmp: QmpClient;
  readonly ended: Promise<MachineEnd>;
  readonly lost: { error?: Error };
}

/** Tells the agent of QEMU's end: with the panic, where that was it. */
async function watchEnd(
  process: QemuProcess,
  console: SerialConsole,
  agent: Agent | undefined,
  lost: { readonly error?: Error },
): Promise<MachineEnd> {
  console.onPanic(() => {
    const timer = setTimeout(() => process.kill('SIGTERM'), panicGraceMs);
    process.exited.then(() => clearTimeout(timer));
  });
  const { code } = await process.exited;
  if (console.panic === undefined) {
    const error = lost.error ?? process.endedError('the guest', console.lastLines());
    agent?.end(error);
    return { kind: code === 0 && lost.error === undefined ? 'off' : 'failed', error };
  }
  const error = new GuestPanicError(
    `the guest's kernel panicked: ${console.panic}. The console's last lines:\n` +
      indent(console.lastLines(40)),
  );
  agent?.end(error, { exitCode: panicExitCode, ended: 'panicked' });
  return { kind: 'panicked', error };
}

/** QEMU's end says more than what it broke on its way. */
async function sooner(ended: Promise<MachineEnd>, error: unknown): Promise<never> {
  let timer: NodeJS.Timeout | undefined;
  const short = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), 1000);
  });
  const end = await Promise.race([ended, short]);
  clearTimeout(timer);
  throw end?.error ?? error;
}

function bootTimeout(
  role: VirtualMachineOptions['agent'],
  timeoutMs: number,
  console: SerialConsole,
): VmTimeoutError {
  const what = {
    init: "the guest's init to be ready",
    service: agentServiceNeeds,
    none: 'QEMU to answer',
  }[role || 'none'];
  return new VmTimeoutError(
    `expected ${what} within ${timeoutMs / 1000} s, got no word from it. ` +
      `The console's last lines:\n${indent(console.lastLines())}`,
  );
}
