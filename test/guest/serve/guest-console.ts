import { type ChildProcess, spawn } from 'node:child_process';
import { until } from '../../protocol/cli/sealbus.ts';

/** A QEMU that a printed command has started, with its guest's console: what is typed, and what has come. */
export class GuestConsole implements AsyncDisposable {
  readonly #child: ChildProcess;
  #text = '';

  /** @param command as a shell takes it @param env more of its environment */
  constructor(command: string, env: Readonly<Record<string, string>> = {}) {
    // The shell makes way for QEMU, so that ending the child ends that.
    const line = command.replace(/^((?:\w+=\S+ )*)/, '$1exec ');
    this.#child = spawn('sh', ['-c', line], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, ...env },
    });
    this.#child.stdin?.on('error', () => {}); // EPIPE: it has ended
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#text += text;
    });
  }

  async said(words: RegExp): Promise<string> {
    await until(() => words.test(this.#text), 120_000, `the guest to say ${words}`);
    return words.exec(this.#text)?.[1] ?? '';
  }

  /** Runs a line in the guest's shell. @returns what it prints */
  async run(line: string): Promise<string> {
    this.#text = '';
    this.type(`echo beg''in; ${line}; echo e''nd`);
    await this.said(/^end\r?$/m);
    return (/^begin\r?\n([\s\S]*?)^end\r?$/m.exec(this.#text)?.[1] ?? '').replaceAll('\r', '');
  }

  type(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /** Its shell is there. */
  async booted(): Promise<void> {
    await this.said(/\/ # |~ # /);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.ended) this.#child.kill('SIGKILL');
    await until(() => this.ended, 20_000, 'QEMU to end');
  }
}
