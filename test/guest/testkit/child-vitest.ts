/** Runs vitest on a file as its author would, and tells what it reported and what it left running. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const vitest = join(root, 'node_modules/vitest/vitest.mjs');
const config = 'test/guest/testkit/failing/vitest.config.ts';

export interface ReportedTest {
  readonly status: 'passed' | 'failed' | 'skipped';
  /** Milliseconds. */
  readonly duration: number;
  /** Of all its errors. */
  readonly message: string;
}

/** In the environment of all that the child starts: so it is found, whoever its parent is by then. */
const mark = 'SEALBUS_CHILD_OF_TEST';

export class ChildVitest implements Disposable {
  /** Where it keeps evidence, and writes its report. */
  readonly directory = mkdtempSync(join(tmpdir(), 'sealbus-failures-'));
  readonly #id = randomUUID();
  readonly #child: ChildProcess;
  readonly exited: Promise<number | NodeJS.Signals>;
  output = '';

  /** @param under what runs it: a command that takes another one */
  constructor(file: string, { under = [] }: { readonly under?: readonly string[] } = {}) {
    mkdirSync(this.runtime, { mode: 0o700 });
    const [program = process.execPath, ...args] = [
      ...[...under, process.execPath, vitest, 'run', '--config', config],
      ...['--reporter', 'json', '--outputFile', join(this.directory, 'report.json'), file],
    ];
    this.#child = spawn(program, args, {
      cwd: root,
      // A group of its own, as a shell gives a job: a Ctrl-C goes to all of it.
      detached: true,
      env: {
        ...withoutVitest(process.env),
        SEALBUS_ARTIFACTS: this.evidence,
        XDG_RUNTIME_DIR: this.runtime,
        [mark]: this.#id,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child.stdout?.on('data', (chunk) => {
      this.output += chunk;
    });
    this.#child.stderr?.on('data', (chunk) => {
      this.output += chunk;
    });
    this.exited = new Promise((resolve) => {
      this.#child.once('close', (code, signal) => resolve(code ?? signal ?? 'SIGKILL'));
    });
  }

  /** Where its sockets and its mounts are. */
  get runtime(): string {
    return join(this.directory, 'run');
  }

  get evidence(): string {
    return join(this.directory, 'evidence');
  }

  /** By full name, as the report has them. @throws Error with its output where there is no report */
  report(): ReadonlyMap<string, ReportedTest> {
    let text: string;
    try {
      text = readFileSync(join(this.directory, 'report.json'), 'utf8');
    } catch {
      throw new Error(`expected a report, got none. vitest said:\n${this.output}`);
    }
    const { testResults } = JSON.parse(text) as Report;
    const all = testResults.flatMap(({ assertionResults }) => assertionResults);
    return new Map(
      all.map(({ fullName, status, duration = 0, failureMessages = [] }) => [
        fullName,
        { status, duration, message: failureMessages.join('\n\n') },
      ]),
    );
  }

  /** Those that live of all it started, and itself. */
  processes(): number[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name) && this.#isOurs(name))
      .map(Number);
  }

  /** As a terminal's Ctrl-C does: to the whole group. */
  interrupt(signal: NodeJS.Signals): void {
    if (this.#child.pid !== undefined) process.kill(-this.#child.pid, signal);
  }

  [Symbol.dispose](): void {
    for (const pid of this.processes()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // gone meanwhile
      }
    }
    rmSync(this.directory, { recursive: true, force: true });
  }

  #isOurs(pid: string): boolean {
    try {
      const state = /^State:\s+(\w)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
      const environment = readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
      return state !== 'Z' && environment.includes(`${mark}=${this.#id}`);
    } catch {
      return false; // gone meanwhile, or another user's
    }
  }
}

interface Report {
  readonly testResults: readonly {
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: ReportedTest['status'];
      readonly duration?: number;
      readonly failureMessages?: readonly string[];
    }[];
  }[];
}

/** The outer vitest's own variables are not for the inner one. */
function withoutVitest(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(env).filter(([name]) => !/^(VITEST|TEST$|NODE_ENV)/.test(name)),
  );
}
