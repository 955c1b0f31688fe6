/** Programs that set-up runs: bounded in time and output, and never left behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { findProgram } from './host-programs.ts';
import { SetupError } from './setup-error.ts';

export interface CommandOptions {
  readonly signal?: AbortSignal | undefined;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** The whole process group is killed after it. */
  readonly timeout_ms: number;
  /** Its standard input; the end of file at once where there is none. */
  readonly input?: string | Uint8Array;
  /** Open descriptors of ours that the program gets, from 4 on. */
  readonly passes?: readonly number[];
  /** Each line that the program writes to descriptor 3. */
  readonly onStatusLine?: (line: string) => void;
  /** Each line of its standard error. */
  readonly onErrorLine?: (line: string) => void;
  /** Exit codes other than 0 that are an answer, not a failure. */
  readonly allowFailure?: boolean;
}

export interface CommandResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const outputBytesMax = 64 * 2 ** 20;

/** A program that failed; what it printed last is in the message. */
export class CommandError extends SetupError {
  readonly code: number | null;
  /** All that it printed on standard error, or else on standard output. */
  readonly output: string;

  constructor(
    program: string,
    args: readonly string[],
    got: string,
    code: number | null,
    said: string,
  ) {
    const tail = said.trim().split('\n').slice(-8).join('\n');
    super({
      expected: `'${[program, ...args].join(' ')}' to succeed`,
      got,
      remedy: tail === '' ? 'It printed nothing.' : `It said:\n${tail}`,
    });
    this.code = code;
    this.output = said;
  }
}

/**
 * Runs a program to its end in a process group of its own, in the C locale. The
 * group is killed at the time limit and when the signal aborts; where this process is killed, so
 * is the program (PR_SET_PDEATHSIG by setpriv).
 * @throws CommandError where it cannot start, fails or takes too long; the signal's reason
 */
export async function runCommand(
  program: string,
  args: readonly string[],
  options: CommandOptions,
): Promise<CommandResult> {
  options.signal?.throwIfAborted();
  const setpriv = findProgram('setpriv');
  const line = setpriv
    ? [setpriv, '--pdeathsig', 'KILL', '--', program, ...args]
    : [program, ...args];
  const child = spawn(line[0]!, line.slice(1), {
    detached: true,
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: 'C', ...options.env },
    stdio: [
      options.input === undefined ? 'ignore' : 'pipe',
      'pipe',
      'pipe',
      options.onStatusLine ? 'pipe' : 'ignore',
      ...(options.passes ?? []),
    ],
  });
  child.stdin?.on('error', () => {}); // it ended before it took all: its exit code says why
  child.stdin?.end(options.input);
  let got = '';
  const stop = (reason: string) => {
    got ||= reason;
    killGroup(child);
  };
  const timer = setTimeout(
    () => stop(`no end within ${options.timeout_ms / 1000} s`),
    options.timeout_ms,
  );
  const onAbort = () => stop('an interruption');
  options.signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const stdout = collect(child.stdout, () => stop('too much output'));
    const stderr = collect(child.stderr, () => stop('too much output'));
    if (options.onStatusLine) followLines(child.stdio[3], options.onStatusLine);
    if (options.onErrorLine) followLines(child.stderr, options.onErrorLine);
    const { code, failure } = await ended(child);
    options.signal?.throwIfAborted();
    const said = stderr() || stdout();
    if (failure) throw new CommandError(program, args, failure.message, null, said);
    if (got) throw new CommandError(program, args, got, null, said);
    if (code === null)
      throw new CommandError(program, args, `signal ${child.signalCode}`, null, said);
    if (code !== 0 && !options.allowFailure) {
      throw new CommandError(program, args, `exit code ${code}`, code, said);
    }
    return { code, stdout: stdout(), stderr: stderr() };
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
  }
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // ESRCH: the whole group is gone already
  }
}

function ended(child: ChildProcess): Promise<{ code: number | null; failure?: Error }> {
  return new Promise((resolve) => {
    child.once('error', (failure) => resolve({ code: null, failure }));
    child.once('close', (code) => resolve({ code }));
  });
}

function collect(stream: NodeJS.ReadableStream | null, overflow: () => void): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream?.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= outputBytesMax) chunks.push(chunk);
    else overflow();
  });
  return () => Buffer.concat(chunks).toString('utf8');
}

function followLines(
  stream: ChildProcess['stdio'][number] | undefined,
  onLine: (line: string) => void,
): void {
  if (!stream || !('read' in stream)) return;
  createInterface({ input: stream }).on('line', onLine);
}
