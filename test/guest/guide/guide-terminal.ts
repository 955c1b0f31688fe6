import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { stripVTControlCharacters } from 'node:util';
import { until } from '../../protocol/cli/sealbus.ts';
import type { ShellOutcome } from '../user-shell.ts';

/** A shell says what it is asked at once, a guest that boots takes a while. */
const PATIENCE_MS = 120_000;

/** A terminal that stays open: a shell, and whatever it has in the foreground, such as a guest's console. */
export class GuideTerminal implements AsyncDisposable {
  readonly #child: ChildProcess;
  #raw = '';

  /** @param env all of the environment */
  constructor(directory: string, env: Readonly<Record<string, string | undefined>>) {
    // A group of its own is what Ctrl-C goes to. The shell itself outlives that, as one at a terminal does.
    this.#child = spawn('sh', [], { cwd: directory, env, detached: true });
    this.#child.stdin?.on('error', () => {}); // EPIPE: it has ended
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#raw += text;
      });
    }
    this.#type('exec 2>&1; trap : INT');
  }

  /** Has whatever shell is in the foreground run a line, until it ends or that shell does. */
  async run(line: string): Promise<ShellOutcome> {
    this.#enter(line);
    return await this.#outcome(`${line} to end`);
  }

  /** Runs a line that goes on. @returns what it has said once that is as expected */
  async start(line: string, expected: RegExp): Promise<string> {
    this.#enter(line);
    const said = () => /^begin\n([\s\S]*)/m.exec(this.#said)?.[1]?.trimEnd() ?? '';
    await this.#until(() => expected.test(said()), `${line} to say ${expected}`);
    return said();
  }

  /** Presses Ctrl-C. @returns how what was in the foreground has ended, and what it has said since */
  async interrupt(): Promise<ShellOutcome> {
    this.#raw = 'begin\n';
    this.#signal('SIGINT');
    const { code, said } = await this.#outcome('it to end by Ctrl-C');
    return { code, said: said.replace(/^\n/, '') }; // what it says begins a new line, after the terminal's ^C
  }

  /** A guest's console shows what is typed: the marks are not to be in that. */
  #enter(line: string): void {
    this.#raw = '';
    this.#type(`echo beg''in; ${line}; echo e''nd $?`);
  }

  /** As it is seen. Pieces that came may end within a control sequence. */
  get #said(): string {
    return stripVTControlCharacters(this.#raw).replaceAll('\r', '');
  }

  #type(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  async #outcome(what: string): Promise<ShellOutcome> {
    const outcome = () => /^begin\n([\s\S]*?)^end (\d+)$/m.exec(this.#said);
    await this.#until(() => outcome() !== null, what);
    const [, said = '', code] = outcome() ?? [];
    return { code: Number(code), said: said.trimEnd() };
  }

  async #until(held: () => boolean, what: string): Promise<void> {
    try {
      await until(held, PATIENCE_MS, what);
    } catch (error) {
      throw new Error(`${error instanceof Error ? error.message : error}, got:\n${this.#said}`);
    }
  }

  #signal(signal: NodeJS.Signals): void {
    const { pid } = this.#child;
    if (pid !== undefined) process.kill(-pid, signal);
  }

  /** Closes it, and ends what runs in it. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const ended = once(this.#child, 'close');
    this.#signal('SIGKILL');
    await ended;
  }
}
