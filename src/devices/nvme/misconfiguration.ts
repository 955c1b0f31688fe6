import { COMPLETION_ENTRY_SHIFT, SUBMISSION_ENTRY_SHIFT } from './queue-commands.ts';
import { type ControllerRegisters, PAGE_SHIFT_MAX } from './registers.ts';

/** What this controller cannot be enabled with (NVMe 1.4 §3.1.5, §7.6.1); undefined: nothing. */
export function misconfiguration({
  configuration: cc,
  adminQueues,
}: Pick<ControllerRegisters, 'configuration' | 'adminQueues'>): string | undefined {
  const entry = (shift: number, supported: number) => shift === 0 || shift === supported;
  if (cc.commandSet !== 0) return `command set ${cc.commandSet}, expected 0 (NVM)`;
  if (cc.arbitration !== 0) return `arbitration ${cc.arbitration}, expected 0 (round robin)`;
  if (cc.pageShift > PAGE_SHIFT_MAX) return `pages of 2^${12 + cc.pageShift} bytes`;
  if (!entry(cc.submissionEntry, SUBMISSION_ENTRY_SHIFT)) {
    return `submission queue entries of 2^${cc.submissionEntry} bytes, expected 2^6`;
  }
  if (!entry(cc.completionEntry, COMPLETION_ENTRY_SHIFT)) {
    return `completion queue entries of 2^${cc.completionEntry} bytes, expected 2^4`;
  }
  if (adminQueues.submission === 0 || adminQueues.completion === 0) {
    return 'an admin queue of one entry, expected 2 or more';
  }
  return undefined;
}
