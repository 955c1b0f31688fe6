import { setTimeout as sleep } from 'node:timers/promises';
import { indent } from '../vm/serial.ts';
import type { ExecResult, VirtualMachine } from '../vm/virtual-machine.ts';
import { VmError, VmTimeoutError } from '../vm/vm-error.ts';
import { calledFrom } from './call-site.ts';
import type { GuestPackage } from './guest-package.ts';
import type { ModuleParameters } from './test-options.ts';

export interface CommandOptions {
  /** Its standard input; nothing where not given. */
  readonly stdin?: string | Uint8Array;
  readonly timeoutMs?: number;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** How a command in the guest ended, whatever that was. */
export interface CommandOutcome {
  /** Its own; 128 + n where signal n ended it. */
  readonly exitCode: number;
  /** Without the newline at its end. */
  readonly stdout: string;
  readonly stderr: string;
}

export interface GuestConsole {
  /** What it has said since the guest came to be, at most the last MiB. */
  readonly log: string;
  /**
   * Waits until it matches, and gives the match; it may have been there before.
   * @throws VmTimeoutError, GuestPanicError, VmError: each with the last lines
   */
  expect(pattern: RegExp, options?: { readonly timeoutMs?: number }): Promise<RegExpMatchArray>;
}

const consoleTimeoutMs = 10_000;
/** A byte of the console takes microseconds; a busy host stops it for longer. */
const settleMs = 20;
const settleTimesMax = 10;
/** A guest that lives answers in milliseconds. */
const answerTimeoutMs = 3000;

/** The guest of one test. */
export class TestGuest {
  /** What is beneath: QMP, exit codes, streams. */
  readonly vm: VirtualMachine;
  readonly console: GuestConsole;
  readonly #package: GuestPackage;
  readonly #iommu: 'identity' | 'virtio';
  readonly #timeoutMs: number;
  readonly #allowed: RegExp[] = [];
  readonly #running = new Set<string>();
  #answers = true;

  private constructor(
    vm: VirtualMachine,
    content: GuestPackage,
    { iommu, commandTimeoutMs }: TestGuestOptions,
  ) {
    this.vm = vm;
    this.#package = content;
    this.#iommu = iommu;
    this.#timeoutMs = commandTimeoutMs;
    this.console = {
      get log() {
        return vm.console.log;
      },
      expect: async (pattern, { timeoutMs = consoleTimeoutMs } = {}) => {
        const at = calledFrom(this.console.expect);
        const wait = () => wholeMatch(vm, pattern, timeoutMs);
        return await at.during(this.#during(`the console to say ${pattern}`, wait));
      },
    };
  }

  /** Puts the package into a guest that is there, and loads what is to be loaded. @throws VmError */
  static async prepare(
    vm: VirtualMachine,
    content: GuestPackage,
    options: TestGuestOptions,
  ): Promise<TestGuest> {
    const guest = new TestGuest(vm, content, options);
    await guest.#settle();
    return guest;
  }

  /**
   * Runs a script by the guest's shell, and gives what it wrote to stdout, without the newline at its
   * end. @throws VmError with its exit code, stdout and stderr where it fails; VmTimeoutError
   */
  async sh(script: string, options: CommandOptions = {}): Promise<string> {
    const at = calledFrom(this.sh);
    const { exitCode, stdout, stderr } = await at.during(this.#run(['sh', '-c', script], options));
    if (exitCode === 0) return stdout;
    throw at.error(
      new VmError(
        `expected '${script}' in the guest to succeed, got exit code ${exitCode}.` +
          `${said('stdout', stdout)}${said('stderr', stderr)}`,
      ),
    );
  }

  /** As {@link sh}, for a script that may fail. @throws VmTimeoutError; VmError where the guest is gone */
  async try(script: string, options: CommandOptions = {}): Promise<CommandOutcome> {
    const at = calledFrom(this.try);
    return await at.during(this.#run(['sh', '-c', script], options));
  }

  /** Runs a program with its arguments, without a shell. @throws as {@link sh} */
  async exec(command: readonly string[], options: CommandOptions = {}): Promise<string> {
    const at = calledFrom(this.exec);
    const { exitCode, stdout, stderr } = await at.during(this.#run(command, options));
    if (exitCode === 0) return stdout;
    throw at.error(
      new VmError(
        `expected '${command.join(' ')}' in the guest to succeed, got exit code ${exitCode}.` +
          `${said('stdout', stdout)}${said('stderr', stderr)}`,
      ),
    );
  }

  /** Makes or replaces a file; its directory must be there. @throws VmError */
  async write(path: string, content: string | Uint8Array): Promise<void> {
    const at = calledFrom(this.write);
    const stdin = typeof content === 'string' ? Buffer.from(content) : content;
    const { exitCode, stderr } = await at.during(
      this.#run(['sh', '-c', 'exec cat > "$1"', 'sh', path], { stdin }),
    );
    if (exitCode !== 0) {
      throw at.error(new VmError(`expected to write ${path} in the guest, got: ${stderr}`));
    }
  }

  /** @throws VmError */
  async read(path: string): Promise<Buffer> {
    const at = calledFrom(this.read);
    const { exitCode, stdout, stderr } = await at.during(this.#bytes(['cat', '--', path], {}));
    if (exitCode === 0) return stdout;
    throw at.error(
      new VmError(`expected to read ${path} in the guest, got: ${`${stderr}`.trim()}`),
    );
  }

  /**
   * Loads a module that the test brought, or that sealbus did, by its name.
   * @throws VmError with what insmod and the kernel said
   */
  async insmod(name: string, parameters: ModuleParameters = {}): Promise<void> {
    const at = calledFrom(this.insmod);
    await at.during(this.#insmod(name, parameters));
  }

  /** @throws VmError with what rmmod said */
  async rmmod(name: string): Promise<void> {
    const at = calledFrom(this.rmmod);
    const { exitCode, stderr } = await at.during(this.#run(['rmmod', kernelName(name)], {}));
    if (exitCode !== 0) {
      throw at.error(new VmError(`expected to unload ${name} in the guest, got: ${stderr}`));
    }
  }

  /** The kernel's log, boot included. @throws VmError */
  async dmesg(): Promise<string> {
    const at = calledFrom(this.dmesg);
    return (await at.during(this.#run(['dmesg'], {}))).stdout;
  }

  /**
   * Boots the guest again, in the same machine with the same devices, and brings what the test brought:
   * its files, and its modules loaded as they were at first.
   * @throws VmTimeoutError; QemuEndedError, GuestPanicError where it does not come back; VmError
   */
  async reboot(options: { readonly timeoutMs?: number } = {}): Promise<void> {
    const at = calledFrom(this.reboot);
    await at.during(this.#during('the guest to boot again', () => this.vm.reboot(options)));
    await at.during(this.#settle());
  }

  /**
   * Complaints of the kernel that match, in a line or in what goes with it, are expected by this test.
   * The other way about nothing is asked: none need come.
   */
  allowComplaints(...patterns: readonly RegExp[]): void {
    this.#allowed.push(...patterns);
  }

  /** What {@link allowComplaints} was told. */
  get allowedComplaints(): readonly RegExp[] {
    return this.#allowed;
  }

  /** False once a command's time was up and nothing else was answered either. */
  get answers(): boolean {
    return this.#answers;
  }

  /** What is being waited for now. */
  get waitingFor(): readonly string[] {
    return [...this.#running];
  }

  /** From the guest as it came up to how the test begins. */
  async #settle(): Promise<void> {
    const { archive, modules } = this.#package;
    // From here on the console has every message of the kernel.
    const script =
      archive === undefined ? 'dmesg -n 8' : 'dmesg -n 8; cd / && cpio -idu 2> /dev/null';
    const stdin = archive === undefined ? {} : { stdin: archive };
    if (this.#iommu === 'virtio') await this.#insmod('virtio_iommu', {});
    const { exitCode } = await this.#run(['sh', '-c', script], stdin);
    if (exitCode !== 0) {
      throw new VmError(
        `expected to unpack ${archive?.length ?? 0} bytes of files in the guest, got exit code ` +
          `${exitCode}: is its memory large enough?`,
      );
    }
    for (const { name, load, parameters } of modules) {
      if (load) await this.#insmod(name, parameters);
    }
  }

  async #insmod(name: string, parameters: ModuleParameters): Promise<void> {
    const settings = Object.entries(parameters).map(([key, value]) => `${key}=${value}`);
    const path = `/lib/modules/${name}.ko`;
    const { exitCode, stderr } = await this.#run(['insmod', path, ...settings], {});
    if (exitCode === 0) return;
    const log = await this.#run(['sh', '-c', 'dmesg | tail -n 15'], {}).catch(() => undefined);
    throw new VmError(
      `expected module ${name} to load in the guest, got exit code ${exitCode}: ${stderr}. ` +
        `The kernel's last messages:\n${indent(log?.stdout ?? '')}`,
    );
  }

  async #run(command: readonly string[], options: CommandOptions): Promise<CommandOutcome> {
    const { exitCode, stdout, stderr } = await this.#bytes(command, options);
    return { exitCode, stdout: text(stdout), stderr: text(stderr) };
  }

  async #bytes(command: readonly string[], options: CommandOptions): Promise<ExecResult> {
    const { stdin, timeoutMs = this.#timeoutMs, cwd, env } = options;
    const what = command[0] === 'sh' && command[1] === '-c' ? command[2] : command.join(' ');
    const wanted = `'${what}' in the guest to end`;
    const result = await this.#during(wanted, () =>
      this.vm.exec(command, {
        timeoutMs,
        ...(stdin === undefined ? {} : { stdin: Buffer.from(stdin) }),
        ...(cwd === undefined ? {} : { cwd }),
        ...(env === undefined ? {} : { env }),
      }),
    );
    if (result.ended === 'timed-out') throw await this.#late(wanted, timeoutMs, result);
    // Whoever waits for a command of a guest that panicked waits for the wrong thing.
    if (result.ended === 'panicked') throw (await this.vm.ended).error;
    return result;
  }

  async #late(wanted: string, timeoutMs: number, result: ExecResult): Promise<VmTimeoutError> {
    this.#answers = await this.vm
      .exec(['true'], { timeoutMs: answerTimeoutMs })
      .then(({ exitCode }) => exitCode === 0)
      .catch(() => false);
    const state = this.#answers
      ? 'It was killed; the guest answers.'
      : 'The guest answers nothing any more: its kernel hangs.';
    return new VmTimeoutError(
      `expected ${wanted} within ${timeoutMs / 1000} s, got no end. ${state}` +
        `${said('stdout', text(result.stdout))}${said('stderr', text(result.stderr))}\n` +
        `  The console's last lines:\n${indent(this.vm.console.lastLines())}`,
    );
  }

  async #during<Result>(wanted: string, work: () => Promise<Result>): Promise<Result> {
    this.#running.add(wanted);
    try {
      return await work();
    } finally {
      this.#running.delete(wanted);
    }
  }
}

/** Words come byte by byte: a match that ends where the console does may go on. */
async function wholeMatch(
  vm: VirtualMachine,
  pattern: RegExp,
  timeoutMs: number,
): Promise<RegExpMatchArray> {
  let match = await vm.console.expect(pattern, { timeoutMs });
  for (let waited = 0; waited < settleTimesMax; waited++) {
    if ((match.index ?? 0) + match[0].length < vm.console.log.length) break;
    await sleep(settleMs);
    match = await vm.console.expect(pattern, { timeoutMs });
  }
  return match;
}

export interface TestGuestOptions {
  readonly iommu: 'identity' | 'virtio';
  readonly commandTimeoutMs: number;
}

const saidMax = 4000;

function said(stream: string, content: string): string {
  if (content === '') return '';
  const end = content.length > saidMax ? `…${content.slice(-saidMax)}` : content;
  return `\n  ${stream}:\n${indent(end)}`;
}

function text(bytes: Buffer): string {
  return bytes.toString('utf8').replace(/\n$/, '');
}

/** The kernel's own name for a module. */
function kernelName(name: string): string {
  return name.replaceAll('-', '_');
}
