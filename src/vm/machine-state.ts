/**
 * A guest's whole state in a file, by QEMU's migration to a file: its mapped-ram form, which keeps each
 * page at a place of its own and leaves out those that are zero (docs/devel/migration/mapped-ram in
 * QEMU's source).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { QmpClient } from './qmp.ts';
import { VmError, VmTimeoutError } from './vm-error.ts';

const pollMs = 5;
const timeoutDefaultMs = 60_000;
const mappedRam = { capabilities: [{ capability: 'mapped-ram', state: true }] };

/** Stops the guest and saves it; it stays stopped. @throws VmError, QmpError */
export async function saveState(
  qmp: QmpClient,
  file: string,
  timeoutMs = timeoutDefaultMs,
): Promise<void> {
  await qmp.execute('stop');
  await qmp.execute('migrate-set-capabilities', mappedRam);
  await qmp.execute('migrate', { uri: `file:${file}` });
  await completion(qmp, `save the guest to ${file}`, timeoutMs);
}

/**
 * Into a QEMU that was started to wait for it; the guest then goes on. Devices that were not there when
 * it was saved are as after power-on.
 * @throws VmError, QmpError; where the state does not fit, QEMU ends
 */
export async function loadState(
  qmp: QmpClient,
  file: string,
  timeoutMs = timeoutDefaultMs,
): Promise<void> {
  await qmp.execute('migrate-set-capabilities', mappedRam);
  await qmp.execute('migrate-incoming', { uri: `file:${file}` });
  await completion(qmp, `load the guest from ${file}`, timeoutMs);
  await qmp.execute('cont');
}

async function completion(qmp: QmpClient, what: string, timeoutMs: number): Promise<void> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    const answer = await qmp.execute('query-migrate');
    const { status, 'error-desc': why } = answer as { status?: string; 'error-desc'?: string };
    if (status === 'completed') return;
    if (status === 'failed' || status === 'cancelled') {
      throw new VmError(`expected QEMU to ${what}, got: ${why ?? status}`);
    }
    if (performance.now() > until) {
      throw new VmTimeoutError(
        `expected QEMU to ${what} within ${timeoutMs / 1000} s, got status ${status}`,
      );
    }
    await sleep(pollMs);
  }
}
