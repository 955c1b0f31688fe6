import { spawn } from 'node:child_process';
import { constants } from 'node:os';

/** As shells have it. */
const EXIT_NO_PROGRAM = 127;
const EXIT_NOT_EXECUTABLE = 126;

/**
 * Runs a program on our own stdin, stdout and stderr, and gives it the signals that we get.
 * @param words where what it prints on stdout goes
 * @returns its exit code; 128 and the signal's number where a signal ended it, 127 where there is none
 */
export async function runChild(
  [program = '', ...args]: readonly string[],
  env: Readonly<Record<string, string>>,
  words: 'stdout' | 'stderr' = 'stdout',
): Promise<number> {
  const child = spawn(program, args, {
    stdio: ['inherit', words === 'stdout' ? 1 : 2, 'inherit'],
    env: { ...process.env, ...env },
  });
  const handlers: [NodeJS.Signals, () => void][] = [];
  const on = (name: NodeJS.Signals, handler: () => void) => {
    process.on(name, handler);
    handlers.push([name, handler]);
  };
  // A terminal sends these to the whole group: the child has its own already.
  for (const name of ['SIGINT', 'SIGQUIT'] as const) {
    on(name, () => {
      if (!process.stdin.isTTY) child.kill(name);
    });
  }
  for (const name of ['SIGTERM', 'SIGHUP'] as const) on(name, () => child.kill(name));
  try {
    return await new Promise<number>((resolve) => {
      child.once('error', (error: NodeJS.ErrnoException) => {
        process.stderr.write(
          `sealbus: expected a program to run, got ${program}: ${error.message}\n`,
        );
        resolve(error.code === 'ENOENT' ? EXIT_NO_PROGRAM : EXIT_NOT_EXECUTABLE);
      });
      child.once('close', (code, signal) =>
        resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])),
      );
    });
  } finally {
    for (const [name, handler] of handlers) process.off(name, handler);
  }
}
