import { Interrupted } from './exit-code.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Runs something that a signal ends in order: the first one aborts it and is its outcome, whatever the
 * work makes of it; further ones change nothing.
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
    const result = await work(abort.signal);
    if (interrupted !== undefined) throw interrupted;
    return result;
  } catch (error) {
    throw interrupted ?? error;
  } finally {
    for (const name of SIGNALS) process.off(name, onSignal);
  }
}
