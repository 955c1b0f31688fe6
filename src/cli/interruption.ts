import { Interrupted } from './exit-code.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Runs something that a signal ends in order: the first one aborts it and is its outcome, whatever the
 * work makes of it; a second one of the same run is not waited for.
 * @throws Interrupted, or what the work throws
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const abort = new AbortController();
  let interrupted: Interrupted | undefined;
  const onSignal = (name: NodeJS.Signals) => {
    if (interrupted !== undefined) return;
    interrupted = new Interrupted(name as (typeof SIGNALS)[number]);
    process.stderr.write(`\nsealbus: ${name}: stopping\n`);
    abort.abort(interrupted);
  };
  for (const name of SIGNALS) process.on(name, onSignal);
  try {
    return await work(abort.signal);
  } catch (error) {
    throw interrupted ?? error;
  } finally {
    for (const name of SIGNALS) process.off(name, onSignal);
  }
}
